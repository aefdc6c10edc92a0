"""Tuning from the front door: ``compile(tune=…, database=…)`` and ``tvmquant tune``."""

import json
import signal
import subprocess
import sys
import time
from importlib.resources import files
from typing import ClassVar

import numpy as np
import onnx
import psutil
import pytest
from click.testing import CliRunner
from networks import Net
from tuning_tools import HOST, FakeBuilders

import tvmquant
from tvmquant.cli import main
from tvmquant.errors import InputError, TargetError
from tvmquant.passes.pipeline import to_integers
from tvmquant.targets import Device
from tvmquant.tuning import Database, Trials, tune_workloads, workloads_of
from tvmquant.tuning import model as tuning_model
from tvmquant.tuning.model import CostModelWarning, workloads_of_manifest

DEMO = str(files("tvmquant") / "assets" / "demo.onnx")


@pytest.fixture(scope="module")
def net():
    made = Net(3)
    x = made.input(1, 6, 8, 8)
    y = made.op("Relu", made.conv(x, 6, 24))
    y = made.op("Relu", made.conv(y, 24, 24, group=24))
    y = made.op("Relu", made.conv(y, 24, 20, 1))
    return made, made.model(made.conv(y, 20, 9, 1))


@pytest.fixture(scope="module")
def quantized(net):
    made, model = net
    return tvmquant.quantize(model, "w4a8", calibration=made.data())


@pytest.fixture
def fake_pool(monkeypatch):
    """No processes, invented times."""

    class FakePool(FakeBuilders):
        made: ClassVar[list] = []

        def __init__(self, workers, threads):
            super().__init__()
            self.made.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(tuning_model, "Pool", FakePool)
    monkeypatch.setattr(
        "tuning_tools.fake_seconds", lambda config: 1e-3 / (1 + len(json.dumps(config)))
    )
    return FakePool


def cli(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_the_layers_of_a_model(quantized):
    integers = to_integers(quantized.mod, quantized.recipe)
    found = workloads_of(integers, HOST)
    ops = [(w.op, w.w_bits) for w in found]
    assert ops == [("conv2d", 8), ("depthwise_conv2d", 4), ("conv2d", 4), ("conv2d", 8)]
    compiled = tvmquant.compile(quantized)
    assert workloads_of_manifest(compiled.manifest, "x") == found


def test_additions_in_epilogues_are_not_measured():
    net = Net()
    x = net.op("Relu", net.conv(net.input(1, 8, 6, 6), 8, 8))
    y = net.conv(net.op("Relu", net.op("Add", x, net.conv(x, 8, 8))), 8, 4)
    quantized = tvmquant.quantize(net.model(y), calibration=net.data(1))
    manifest = tvmquant.compile(quantized).manifest
    assert any(" + " in layer.name for layer in manifest.layers)
    found = workloads_of(to_integers(quantized.mod, quantized.recipe), HOST)
    assert workloads_of_manifest(manifest, "x") == found


def test_compile_measures_and_uses_what_is_fastest(quantized, net, tmp_path):
    made, _ = net
    path = tmp_path / "a.jsonl"
    feeds = made.data(1)[0]
    plain = tvmquant.compile(quantized, database=False).run(feeds)
    seen = []
    tuned = tvmquant.compile(
        quantized,
        tune=Trials(3, database=path, workers=1),
        progress=lambda stage, done, total: seen.append((stage, done, total)),
    )
    database = Database(path)
    assert {r.error for r in database.records} == {""}
    assert len({(r.workload, r.key) for r in database.records}) == 12
    assert ("tune", 12, 12) in seen
    for name, value in plain.items():
        np.testing.assert_array_equal(tuned.run(feeds)[name], value)
    # With the file alone nothing is measured, and the same kernels are found.
    before = path.read_text()
    again = tvmquant.compile(quantized, database=path)
    assert path.read_text() == before
    np.testing.assert_array_equal(again.run(feeds)[name], value)


def test_compile_looks_every_layer_up(quantized):
    class Spy(Database):
        asked: ClassVar[list] = []

        def ranked(self, workload, device):
            self.asked.append(workload)
            return super().ranked(workload, device)

    tvmquant.compile(quantized, database=Spy())
    wanted = workloads_of(to_integers(quantized.mod, quantized.recipe), HOST)
    light = [w for w in Spy.asked if w.op.startswith("function:")]
    heavy = [w for w in Spy.asked if w not in light]
    assert set(wanted) <= set(heavy) and light


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tune": 0}, "count must be a positive integer, got 0"),
        ({"tune": "many"}, "tune must be a number of trials"),
        ({"tune": True}, "tune must be a number of trials"),
        ({"tune": 2, "database": "a.jsonl"}, "give tune=Trials"),
        ({"database": "nowhere.jsonl"}, "no tuning database nowhere.jsonl"),
    ],
)
def test_bad_options_are_refused_at_once(options, message):
    with pytest.raises(InputError, match=message):
        tvmquant.compile("no model is read.onnx", **options)


def test_only_devices_that_run_here_are_tuned_for():
    alien = Device("alien", HOST.target_json, HOST.features | {"sve2"})
    with pytest.raises(TargetError, match="cannot tune for alien on this machine, it lacks sve2"):
        tune_workloads([], alien, Trials(1))
    arm = Device("pi", '{"kind": "llvm", "mtriple": "aarch64-linux-gnu"}', frozenset())
    with pytest.raises(TargetError, match="it is not aarch64-linux-gnu"):
        tune_workloads([], arm, Trials(1))


def test_without_xgboost_there_is_a_hint(monkeypatch, fake_pool):
    monkeypatch.setattr(tuning_model, "has_xgboost", lambda: False)
    with pytest.warns(CostModelWarning, match=r"pip install -e '\.\[tune\]'"):
        tune_workloads([], HOST, Trials(1))


def test_the_command_resumes(fake_pool, net, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning_model, "has_xgboost", lambda: True)  # no hint: nothing is learned
    onnx.save(net[1], tmp_path / "net.onnx")
    path = tmp_path / "a.jsonl"
    command = ("tune", tmp_path, "--trials", 2, "--database", path, "--bits", "w4a8")
    first = cli(*command, "--json")
    assert first.exit_code == 0, first.output
    assert json.loads(first.stdout)["measured"] == 8
    second = cli(*command)
    assert second.exit_code == 0 and "4 distinct layers, 0 candidates measured" in second.stdout
    assert fake_pool.made[-1].timings == 0
    third = cli(*command, "--bits", "8")
    # First and last layer are the same, the depthwise and the pointwise one are new.
    assert "6 distinct layers, 4 candidates measured" in third.stdout
    assert third.stderr == ""


def test_a_compiled_model_can_be_tuned(fake_pool, quantized, tmp_path):
    folder = tvmquant.compile(quantized).save(tmp_path / "model")
    database = tmp_path / "a.jsonl"
    result = cli("tune", folder, "--trials", 1, "--database", database)
    assert "4 distinct layers, 4 candidates measured" in result.stdout, result.output
    refused = cli("tune", folder, "--trials", 1, "--database", database, "--bits", 4)
    assert refused.exit_code == 2 and "its bits are fixed" in refused.stderr


def test_bad_input_is_one_line(tmp_path, fake_pool):
    (tmp_path / "bad.jsonl").write_text("hello\n")
    (tmp_path / "empty").mkdir()
    good = tmp_path / "good.jsonl"
    for arguments, words in (
        ((DEMO, "--database", tmp_path / "bad.jsonl"), "is not a tuning database"),
        ((DEMO, "--database", tmp_path / "no" / "a.jsonl"), "is not a folder"),
        ((DEMO, "--database", good, "--bits", 4, "--recipe", "r.json"), "give one"),
        ((tmp_path / "empty", "--database", good), "neither a compiled model nor ONNX files"),
        ((tmp_path / "none.onnx", "--database", good), "none.onnx"),
        ((DEMO, "--database", good, "--bits", 3), "3"),
    ):
        result = cli("tune", *arguments, "--trials", 2)
        assert result.exit_code == 2, result.output
        assert words in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_keeps_what_is_measured(tmp_path):
    path = tmp_path / "a.jsonl"
    command = [sys.executable, "-m", "tvmquant", "tune", DEMO, "--trials", "500"]
    command += ["--database", str(path), "--input-shape", "image=1,1,28,28", "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(3000):
        if path.exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    workers = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    kept = len(Database(path))
    assert kept > 0 and out == ""
    assert f"interrupted: {kept} measurements were added to {path}" in err
    assert workers and not psutil.wait_procs(workers, timeout=100)[1]
