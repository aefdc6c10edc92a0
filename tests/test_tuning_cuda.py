"""Tuning for a GPU, on one that is simulated: search, failures, database, choice of kernels."""

import json
import shutil
from dataclasses import replace
from importlib.resources import files

import numpy as np
import onnx
import pytest
import tvm
from click.testing import CliRunner
from simulated_gpu import GONE, HOW, NAME, seconds_of, simulated
from tuning_tools import HOST, FakeBuilders

import tvmquant
import tvmquant.compiler  # before anything is patched: it is loaded when it is first used
from tvmquant.cli import main
from tvmquant.errors import InputError, RemoteError, TargetError
from tvmquant.remote.address import Address
from tvmquant.remote.device import DeviceInfo
from tvmquant.runtime.gpu import Gpu, local_gpu
from tvmquant.schedules.selection import KernelTable
from tvmquant.schedules.workload import Workload
from tvmquant.targets import get_device
from tvmquant.tuning import Database, Trials, gpu, model, ship, tune_traces, tune_workloads
from tvmquant.tuning.candidates import candidates
from tvmquant.tuning.common_layers import conv, dense
from tvmquant.tuning.cost_model import AnalyticModel, XgbModel
from tvmquant.tuning.features import features
from tvmquant.tuning.gpu_session import GpuSession
from tvmquant.tuning.pool import Outcome
from tvmquant.tuning.record import Processor, config_key
from tvmquant.tuning.remote_pool import RemotePool, RemoteTuningWarning
from tvmquant.tuning.remote_session import BuildSession, _check_kind
from tvmquant.tuning.session import Job
from tvmquant.tuning.tuner import Tuner

pytestmark = pytest.mark.filterwarnings("ignore::tvmquant.tuning.model.CostModelWarning")

GPU = get_device("cuda-sm_90")
LAYER = Workload("matmul", (64, 256), (128, 256))
DEMO = files("tvmquant") / "assets" / "demo.onnx"
needs_nvcc = pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")


def of_tensor_cores(workload=LAYER):
    """Candidates of one rule, the default first, then those that its model likes."""
    return [c for c in candidates(workload, GPU) if c.rule.endswith("rules.tensor_cores")]


def tune(database, count):
    plan = Trials(count, database, "analytic", workers=1)
    return tune_workloads([LAYER], GPU, plan, fleet=simulated())


def test_failures_of_every_kind_cost_the_candidate_only(monkeypatch, tmp_path):
    space = [c for c in candidates(LAYER, GPU) if not c.default]
    likely = sorted(space, key=lambda candidate: candidate.estimate)[:4]
    kinds = dict(zip(("poison", "crash", "wrong", "launch"), likely))
    behaviour = {config_key(c.config): kind for kind, c in kinds.items()}
    monkeypatch.setenv(HOW, json.dumps(behaviour))
    path = tmp_path / "db.jsonl"
    report = tune(Database(path), 9)
    assert report.measured == 9 and report.failed == 4
    database = Database(path)
    told = {r.key: r.error for r in database.records if r.seconds is None}
    assert told.keys() == {c.key for c in likely}
    assert "lost the device twice" in told[kinds["poison"].key]
    assert "illegal memory access" in told[kinds["poison"].key]
    assert "signal 6" in told[kinds["crash"].key]
    assert "values differ" in told[kinds["wrong"].key]
    assert told[kinds["launch"].key] == "CUDA: too many resources requested for launch"
    # Times are those of this model of GPU, and what compiles for its architecture uses them.
    processors = {record.processor for record in database.records}
    assert processors == {Processor("cuda_sm_90", NAME, ("cuda", "sm_90"))}
    good = [r for r in database.records if r.seconds is not None]
    assert all(r.seconds == pytest.approx(seconds_of(r.config)) for r in good)
    best = min(good, key=lambda record: record.seconds)
    chosen = KernelTable(GPU, database=database)[LAYER]
    assert chosen.plan.config == best.config
    assert KernelTable(GPU)[LAYER].plan.config == candidates(LAYER, GPU)[0].config != best.config
    assert KernelTable(get_device("cuda-sm_80"), database=database)[LAYER].arch.sm == 80
    # All is known now: nothing is measured again.
    again = tune(database, 9)
    assert again.measured == 0 and again.layers[0].best == best.seconds


def test_a_gpu_that_is_gone_is_no_fault_of_candidates(monkeypatch, tmp_path):
    space = [c for c in candidates(LAYER, GPU) if not c.default]
    first, second, *_ = sorted(space, key=lambda candidate: candidate.estimate)
    monkeypatch.setenv(GONE, str(tmp_path / "gone"))
    monkeypatch.setenv(HOW, json.dumps({config_key(second.config): "gone"}))
    database = Database()
    with (
        pytest.warns(RemoteTuningWarning, match="gave up the GPU: it fell off the bus"),
        pytest.raises(RemoteError, match=r"cannot be used any more \(it fell off the bus\)"),
    ):
        tune(database, 9)
    assert all(record.seconds is not None for record in database.records)
    assert first.key in {record.key for record in database.records}
    # From the start there is nothing to measure on.
    with pytest.raises(RemoteError, match="it fell off the bus"):
        tune(Database(), 2)


def test_a_candidate_that_hangs_is_ended(monkeypatch, tmp_path):
    good, bad, *_ = of_tensor_cores()
    monkeypatch.setenv(HOW, json.dumps({config_key(bad.config): "hang"}))
    with RemotePool(simulated(), GPU, workers=1) as pool:
        assert pool.device.gpu == NAME
        job = Job(LAYER, pool.device, bad.rule, bad.config, str(tmp_path / "reference.npz"))
        ((handle, error),) = pool.build([replace(job, config=good.config)])
        assert error == "" and pool.time(handle, 1).seconds == seconds_of(good.config)
        (board,) = pool._boards.alive
        library = pool._trials[handle].library
        board._gpu = replace(board._gpu, timeout=2.0)
        answer = board.run(job, library, 1)
        assert answer.kind == "lost" and "took more than 2 s" in answer.text
        # The next process is none the worse for it.
        board._gpu = replace(board._gpu, timeout=60.0)
        assert board.run(job, library, 1).text == "its process has ended"
        board.reopen()
        assert board.run(replace(job, config=good.config), library, 1).kind == "time"
    assert not board._worker.alive


class Timed(FakeBuilders):
    def time(self, handle, best):
        return Outcome(seconds_of(self.jobs[handle].config))


def best_of(cost_model, count=64):
    named = replace(GPU, gpu=NAME)
    tuner = Tuner(named, Trials(count), Database(), cost_model, Timed())
    # Another layer first: what it teaches serves the next one.
    other = replace(LAYER, x_shape=(96, 256))
    return tuner.run([other, LAYER]).layers[-1]


def test_the_learned_model_finds_what_the_kernels_model_does_not_know(monkeypatch):
    pytest.importorskip("xgboost")
    only = candidates_without(monkeypatch, "warpgroup")
    ideal = min(seconds_of(c.config) for c in only)
    learned, analytic = best_of(XgbModel()), best_of(AnalyticModel())
    assert learned.best <= 1.2 * ideal < analytic.best
    assert learned.ratio > 1.5


def candidates_without(monkeypatch, word):
    """Only rules whose names lack the word take part."""

    def some(workload, device):
        return [c for c in candidates(workload, device) if word not in c.rule]

    monkeypatch.setattr("tvmquant.tuning.tuner.candidates", some)
    return some(LAYER, GPU)


def test_features_tell_products_and_how_a_kernel_fills_the_gpu():
    workload = replace(LAYER, x_bits=4, w_bits=4)
    found = {}
    for candidate in candidates(workload, get_device("cuda-sm_80")):
        found[candidate.config["product"]] = features(workload, candidate)
    for product, named in found.items():
        assert named[f"config:product={product}"] == 1
        facts = {name.removeprefix("fact:") for name in named if name.startswith("fact:")}
        assert {"waves", "moved", "intensity", "shared_bytes", "registers", "full"} <= facts
    assert found.keys() == {"U4S4", "U8S8"}
    assert not any("=" in name for name in features(LAYER, candidates(LAYER, HOST)[0]))


@needs_nvcc
def test_candidates_are_built_with_nvcc(tmp_path):
    builder, space = BuildSession(), candidates(LAYER, GPU)
    rules = {candidate.rule: candidate for candidate in reversed(space)}
    for number, candidate in enumerate([*rules.values(), space[-1]]):
        library = tmp_path / f"{number}.so"
        job = Job(LAYER, GPU, candidate.rule, candidate.config, str(tmp_path / "none.npz"))
        builder.compile(job, str(library))
        # The library itself, and machine code of the GPU in it.
        assert library.read_bytes().count(b"\x7fELF") == 2


@needs_nvcc
@pytest.mark.skipif(local_gpu() is None, reason="this machine has no NVIDIA GPU")
def test_on_the_gpu_of_this_machine(tmp_path):
    device, database = get_device("cuda"), Database(tmp_path / "db.jsonl")
    weight_only = Workload(
        "matmul_weight_only", (1, 1024), (512, 1024), (), x_bits=32, w_bits=4, group_size=128
    )
    layers = [LAYER, replace(weight_only, requantize="float32")]
    report = tune_workloads(layers, device, Trials(4, database, "analytic"))
    assert report.failed == 0, [record.error for record in database.records]
    assert all(1e-7 < layer.best <= layer.default < 1e-2 for layer in report.layers)
    assert {record.processor.cpu for record in database.records} == {local_gpu().name}


def cli(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def layer_onnx(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(LAYER.w_shape[::-1]).astype(np.float32)
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "layer",
        [info("x", onnx.TensorProto.FLOAT, LAYER.x_shape)],
        [info("y", onnx.TensorProto.FLOAT, LAYER.out_shape)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    path = tmp_path / "layer.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


@needs_nvcc
@pytest.mark.filterwarnings("ignore:no calibration data")
def test_what_the_command_measures_is_what_compile_uses(monkeypatch, layer_onnx, tmp_path):
    monkeypatch.setattr(gpu, "LocalGpu", simulated)
    monkeypatch.setattr(model, "check_runs_here", lambda device: None)
    path = tmp_path / "db.jsonl"
    common = ("tune", layer_onnx, "--target", "cuda-sm_90", "--database", path, "--workers", 1)
    result = cli(*common, "--trials", 12, "--cost-model", "analytic", "--json")
    assert result.exit_code == 0, result.output
    (layer,) = json.loads(result.stdout)["layers"]
    assert layer["best_us"] < layer["default_us"]
    database = Database(path)
    compiled = {
        name: tvmquant.compile(layer_onnx, "cuda-sm_90", database=used).manifest.layers
        for name, used in (("tuned", path), ("plain", False))
    }
    kernels = {
        name: next(layer for layer in layers if layer.macs).kernel
        for name, layers in compiled.items()
    }
    (workload,) = {record.workload for record in database.records}
    assert kernels["tuned"] == KernelTable(GPU, database=database)[workload].label
    assert kernels["plain"] == KernelTable(GPU)[workload].label != kernels["tuned"]


def test_without_a_gpu_the_command_says_what_to_do(monkeypatch, tmp_path):
    command = ("tune", DEMO, "--trials", 2, "--database", tmp_path / "db.jsonl")
    monkeypatch.setattr(model, "local_gpu", lambda: None)
    result = cli(*command, "--target", "cuda-sm_90")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert "has no NVIDIA GPU" in result.stderr and "add --rpc HOST:PORT" in result.stderr
    monkeypatch.setattr(model, "local_gpu", lambda: Gpu("NVIDIA A10", "sm_86"))
    result = cli(*command, "--target", "cuda-sm_90")
    assert result.exit_code == 2 and "is sm_86 (NVIDIA A10): give the target cuda-sm_86" in (
        result.stderr
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    result = cli(*command, "--target", "cuda-sm_86")
    assert result.exit_code == 2 and "nvcc is not installed" in result.stderr
    result = cli(*command, "--target", "cuda-sm_86", "--rpc", "gpu:9090", "--metaschedule", 2)
    assert result.exit_code == 2
    assert not (tmp_path / "db.jsonl").exists()


def test_what_cannot_be_tuned_is_refused():
    with pytest.raises(InputError, match="processors only"):
        tune_traces([LAYER], [], GPU, Trials(1))
    with pytest.raises(TargetError, match="one architecture at a time"):
        tune_workloads([LAYER], GPU.with_fatbin(["sm_80"]), Trials(1))
    if not tvm.cuda(0).exist:
        with pytest.raises(TargetError, match="has none or no driver"):
            GpuSession().open(GPU)
        with pytest.raises(TargetError, match="has no NVIDIA GPU"):
            tvmquant.compile("not read", "cuda-sm_90", tune=2)
        with pytest.raises(TargetError, match="has no NVIDIA GPU"):
            ship.device_with("cuda")


def test_common_layers_of_several_images():
    layers = [conv(28, 64, 64, 3), dense(512)]
    large = ship.batched(layers, (1, 8))
    assert large[:2] == layers and [w.x_shape[0] for w in large] == [1, 1, 8, 8]
    assert [w.macs for w in large[2:]] == [8 * w.macs for w in layers]


def test_servers_must_have_the_gpu_that_is_tuned_for():
    where = Address("box", 9090)
    info = DeviceInfo("CPU", GPU.architecture, gpu=NAME, gpu_arch="sm_90")
    assert NAME in str(info) and DeviceInfo.from_json(info.to_json()) == info
    _check_kind(where, info, GPU)
    _check_kind(where, info, replace(GPU, gpu=NAME))
    for other, device, words in (
        (replace(info, gpu="", gpu_arch=""), GPU, "has no NVIDIA GPU"),
        (replace(info, gpu_arch="sm_86"), GPU, "give --target cuda-sm_86"),
        (info, replace(GPU, gpu="NVIDIA H100"), "tune for each apart"),
    ):
        with pytest.raises(RemoteError, match=words):
            _check_kind(where, other, device)
