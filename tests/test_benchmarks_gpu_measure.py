"""Measuring a prepared set, here for this processor: exactness, failures, times, the table."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.gpu import measure, prepare
from benchmarks.gpu.bare import jobs, planning, runtime, table, timing
from benchmarks.gpu.cases import Case, conv, matmul, weight_only
from benchmarks.gpu.networks import NetworkCase

SCRIPT = Path(measure.__file__)
# As the script knows them: it is no part of a package.
Worker, WorkerError, StartError = measure.Worker, measure.WorkerError, measure.StartError
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
PARTS = {
    "exact": lambda: [
        Case("exact", "adds", "w8a8", conv((1, 6, 7, 16), 20, 3), "float"),
        Case("exact", "codes", "w4a8", matmul(5, 70, 24, w_bits=4), extreme=True),
        Case("exact", "float", "w4", weight_only(3, 64, 24, group_size=32)),
    ],
    "gemm": lambda: [
        Case("gemm", "100x96x64", "w8a8", matmul(100, 96, 64)),
        Case("gemm", "100x96x64", "w1a1", matmul(100, 96, 64, w_bits=1, x_bits=1)),
        Case("gemm", "2x128x64", "w8a8", matmul(2, 128, 64)),
    ],
    "conv": lambda: [Case("conv", "3x3 8->72 @9 batch 2", "w8a8", conv((2, 9, 9, 8), 72, 3))],
}


def tiny(path):
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((8, 3, 3, 3)) / 5, "v": rng.standard_normal((8, 5))}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "v"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    tiny(folder / "tiny.onnx")
    network = NetworkCase("tiny", "w8a8", 4, folder / "tiny.onnx")
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "PARTS", PARTS)
        patch.setattr(prepare, "network_cases", lambda path: [network])
        prepare.prepare(
            folder / "set",
            "host",
            ("exact", "gemm", "conv", "networks"),
            plans={"exact": 2, "gemm": 2, "conv": 2},
            efficientnet=None,
            python=PYTHON,
            peers=False,
            jobs=1,
            only="",
            keep=False,
            tell=told.append,
        )
    assert not any("failed" in line for line in told), told
    assert told[-1].endswith("MB in all") and float(told[-1].split()[0]) < 10
    return folder / "set"


@pytest.fixture
def work(prepared, tmp_path):
    """The set unpacked, to be damaged."""
    measure.unpack(prepared, tmp_path / "work")
    return tmp_path / "work"


def run(folder, out, *more, **environment):
    command = [sys.executable, str(SCRIPT), str(folder), "-o", str(out), "--rounds", "2", *more]
    environment = {**os.environ, **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_everything_is_exact_and_timed_with_the_slim_runtime_alone(prepared, tmp_path):
    # TVM itself must not be needed.
    blocked = tmp_path / "blocked"
    for name in ("tvm", "tvmquant"):
        (blocked / name).mkdir(parents=True)
        (blocked / name / "__init__.py").write_text("raise ImportError('not on this machine')")
    out = tmp_path / "out" / "results.json"
    done = run(prepared, out, PYTHONPATH=str(blocked))
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert not [r for r in rows if "error" in r or r.get("exact") is False], rows
    timed = {(r["name"], r.get("precision")) for r in rows if r.get("us", 0) > 0}
    assert timed == {
        ("100x96x64", "w8a8"),
        ("100x96x64", "w1a1"),
        ("2x128x64", "w8a8"),
        ("3x3 8->72 @9 batch 2", "w8a8"),
        ("tiny batch 4", "w8a8"),
    }
    assert {r["name"] for r in rows if r["part"] == "exact"} == {
        "adds w8a8 float",
        "codes w4a8",
        "float w4",
    }
    assert "networks equal to the host's build: 1 of 1" in done.stdout
    assert done.stdout.index("jobs left") < done.stdout.index("100x96x64  ")


def in_process(work, parts, **changes):
    ffi = runtime.load(work / "nothing", cuda=False)
    found = []
    for job in planning.jobs_of(work, parts, 2):
        found += jobs.run(changes.pop("device", None) or runtime.Processor(ffi), job, work)
    return found


def edit(path, **changes):
    about = json.loads(path.read_text())
    about.update({key: change(about[key]) for key, change in changes.items()})
    path.write_text(json.dumps(about))


def test_wrong_kernels_are_found_and_not_timed(work):
    wrong = work / "gemm" / "gemm_2x128x64_w8a8" / "case.json"
    edit(wrong, check=lambda c: {**c, "digests": ["0" * 16, *c["digests"][1:]]})
    stored = work / "exact" / "exact_codes_w4a8"
    about = json.loads((stored / "case.json").read_text())
    with np.load(stored / "arrays.npz") as arrays:
        damaged = dict(arrays)
    damaged[about["check"]["whole"]["array"]].reshape(-1)[3] ^= 1
    np.savez(stored / "arrays.npz", **damaged)
    rows = in_process(work, ["exact", "gemm"])
    bad = [r for r in rows if r["exact"] is False]
    assert {(r["name"], r["wrong"]) for r in bad} == {
        ("2x128x64", "1 of 2 rows differ"),
        ("codes w4a8", "1 of 120 values differ"),
    }
    assert not any("us" in r for r in bad)
    text = table.final_table({"rows": rows, "set": {"target": "host"}, "skipped": ["gemm: a"]})
    assert "WRONG: codes w4a8; 2x128x64" in text and "no time for: 1 gemm" in text
    assert "NOT MET  kernels equal to NumPy" in text


def test_kernels_that_fail_or_are_to_be_avoided_are_rows(work):
    def rename(plans):
        return [{**plans[0], "function": "missing"}, *plans[1:]]

    edit(work / "gemm" / "gemm_2x128x64_w8a8" / "case.json", plans=rename)
    (work / "networks" / "tiny_w8a8_batch_4" / "model.so").write_bytes(b"no library")
    rows = in_process(work, ["gemm", "network"])
    failed = {r["name"]: r for r in rows if "error" in r}
    assert set(failed) == {"2x128x64", "tiny batch 4"}
    assert failed["2x128x64"]["exact"] is None and failed["2x128x64"]["plan"] == 0
    assert sum(r["name"] == "2x128x64" for r in rows) == 2
    job = next(j for j in planning.jobs_of(work, ["conv"], 2))
    alone = planning.single(job, work)
    patient = next(j for j in planning.jobs_of(work, ["conv"], 2, patience=3))
    assert patient["limit"] == 3 * job["limit"] and alone[0]["limit"] < job["limit"]
    assert planning.single(patient, work)[0]["limit"] == 3 * alone[0]["limit"]
    assert [j["plan"] for j in alone if "plan" in j] == [0, 1] and alone[-1]["folders"] == []
    ffi = runtime.load(work / "nothing", cuda=False)
    avoided = jobs.run(runtime.Processor(ffi), job | {"avoid": [alone[0]["family"]]}, work)
    assert "ended their process" in avoided[0]["error"]


def test_memory_through_tvm_alone_gives_the_same_rows(work):
    """The way of a GPU without PyTorch, with the processor in its place."""
    device = runtime.Gpu(runtime.load(work / "nothing", cuda=False), kind=1)
    rows = in_process(work, ["exact"], device=device)
    assert [r["exact"] for r in rows] == [True] * len(rows) and len(rows) >= 3
    device.sync()
    assert device.get(device.copy(device.put(np.arange(5)))).tolist() == [0, 1, 2, 3, 4]


def fake_worker(*lines):
    """A process that answers as ``lines`` say."""
    text = "import json, sys, os, time\nsay = lambda **v: print(json.dumps(v), flush=True)\n"
    text += "\n".join(lines)
    return Worker([sys.executable, "-c", text])


SERVE = """say(device='x')
for line in sys.stdin:
    job = json.loads(line)
    if job['name'] == 'dies' or job.get('family') == 'bad' and 'bad' not in job['avoid']:
        os._exit(3)
    if job['name'] == 'hangs': time.sleep(60)
    row = {'part': job['part'], 'name': job['name'], 'contender': 'a', 'pid': os.getpid()}
    say(rows=[row], healthy=job['name'] != 'poisons')"""


def job(name, part="gemm", **more):
    return {"kind": "kernels", "part": part, "name": name, "folders": [], "limit": 30, **more}


def test_a_process_that_ends_hangs_or_loses_its_gpu_is_replaced(tmp_path):
    worker = fake_worker(SERVE)
    try:
        first = worker.run(job("fine"), 30)
        with pytest.raises(WorkerError, match="context was lost") as lost:
            worker.run(job("poisons"), 30)
        assert lost.value.rows[0]["pid"] == first[0]["pid"]
        second = worker.run(job("fine"), 30)
        assert second[0]["pid"] != first[0]["pid"]
        with pytest.raises(WorkerError, match="ended with 3"):
            worker.run(job("dies"), 30)
        with pytest.raises(WorkerError, match="no answer within 0 s"):
            worker.run(job("hangs"), 0.3)
        assert worker.run(job("fine"), 30)[0]["name"] == "fine"
    finally:
        worker.stop()
    with pytest.raises(StartError, match="no GPU"):
        fake_worker("say(error='no GPU')").run(job("fine"), 30)


def test_what_is_lost_is_a_row_and_the_rest_goes_on(tmp_path):
    todo = [job("poisons"), job("dies"), *(job(f"bad {i}", family="bad", plan=i) for i in range(4))]
    todo.append(job("late", limit=30))
    results, out = {}, tmp_path / "results.json"
    end = measure.time.monotonic() + 60
    done = measure._run(fake_worker(SERVE), todo, tmp_path, end, results, out)
    errors = [r["name"] for r in done["rows"] if "error" in r]
    assert done["rows"][0]["name"] == "poisons"
    # After two lost processes the family is left out by whoever is asked to avoid it.
    assert errors == ["dies", "bad 0", "bad 1"]
    assert [r["name"] for r in done["rows"]][-3:] == ["bad 2", "bad 3", "late"]
    assert json.loads(out.read_text())["rows"] == done["rows"]
    done = measure._run(fake_worker(SERVE), todo, tmp_path, end - 59, {}, out)
    assert done["rows"] == [] and len(done["skipped"]) == len(todo)


def test_contenders_take_turns_and_failures_are_rows(tmp_path):
    calls = []

    def fails(copy):
        raise RuntimeError("first line\nCUDA: out of memory")

    contenders = [
        timing.Contender("a", lambda copy: calls.append(copy), copies=3),
        timing.Contender("b", fails),
    ]
    contenders.append(timing.Contender("c", lambda copy: None, 1, {"exact": True}, None, int))
    few = iter(range(4))
    contenders.append(timing.Contender("d", lambda copy: next(few)))
    lost = timing.Contender("e", lambda copy: None, unchanged=lambda: fails(0))
    rows = timing.take_turns(runtime.Processor(None), [*contenders, lost], 3, 60)
    # What fails while it is timed, or is read afterwards, takes no other contender along.
    assert [r.get("error", "").partition(":")[0] for r in rows[3:]] == [
        "StopIteration",
        "RuntimeError",
    ]
    assert not any("us" in r for r in rows[3:])
    assert rows[2]["exact"] is False and "us" not in rows[2]
    assert rows[0]["readings"] == 3 and rows[0]["p10"] <= rows[0]["us"] <= rows[0]["p90"]
    assert rows[1] == {"contender": "b", "error": "RuntimeError: CUDA: out of memory"}
    assert set(calls) == {0, 1, 2}
    assert timing.copies_of(1 << 40, True) == 1 == timing.copies_of(1, False)
    assert timing.copies_of(timing.COLD_BYTES // 5, True) == 6


@pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is an NVIDIA driver")
def test_without_a_gpu_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "PARTS", {"exact": lambda: PARTS["exact"]()[1:2]})
    monkeypatch.setattr(prepare, "network_cases", lambda path: [])
    settings = {"plans": {"exact": 2}, "efficientnet": None, "python": PYTHON, "peers": False}
    settings |= {"jobs": 1, "only": "", "keep": False, "tell": print}
    prepare.prepare(tmp_path / "set", "cuda-sm_80", ("exact",), **settings)
    done = run(tmp_path / "set", tmp_path / "results.json")
    assert done.returncode == 1
    assert "libtvm_runtime_cuda.so" in done.stdout or "no NVIDIA GPU" in done.stdout
    assert "no time for: 1 machine, 1 exact" in done.stdout


def test_folders_and_parts_that_do_not_exist_are_refused(tmp_path, prepared):
    assert "has no set.json" in run(tmp_path, tmp_path / "x.json").stderr
    assert "unknown parts all" in run(prepared, tmp_path / "x.json", "--parts", "all").stderr
