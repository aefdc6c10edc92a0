"""Preparing what benchmarks/gpu measures, and what becomes of its results."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.gpu import cases, expected, kernels, prepare, records, report, shapes, slim
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.bare import data, summary
from benchmarks.gpu.cases import Case, conv, matmul, weight_only
from tvmquant import reference
from tvmquant.schedules.meaning import integer_layer
from tvmquant.schedules.workload import Workload
from tvmquant.targets import get_device
from tvmquant.tuning.candidates import Candidate, candidates
from tvmquant.tuning.database import Database

GEMM = "512x1024x1024"


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_weights_and_activations_have_their_bits(bits):
    weights, x = data.weights(3, (100, 3, 3, 80), bits), data.activations(3, (50, 70), bits)
    half = 1 << (bits - 1)
    assert set(np.unique(weights)) == ({-1, 1} if bits == 1 else set(range(1 - half, half)))
    assert set(np.unique(x)) == set(range(1 << bits))
    np.testing.assert_array_equal(weights[:36], weights[64:])
    np.testing.assert_array_equal(weights[..., :16], weights[..., 64:])
    np.testing.assert_array_equal(x, data.activations(3, (50, 70), bits))


def test_rows_to_compare_are_those_at_both_ends_and_some_between():
    rows = data.some_rows(1, 5000)
    assert {0, 1, 4998, 4999} <= set(rows) and 40 < len(rows) == len(set(rows)) <= 4 * data.ROWS
    np.testing.assert_array_equal(data.some_rows(1, 7), np.arange(7))


def test_digests_tell_rows_apart():
    rows = np.arange(12, dtype=np.uint8).reshape(3, 4)
    other = rows.copy()
    other[1, 2] += 1
    pairs = zip(data.row_digests(rows), data.row_digests(other))
    assert [a == b for a, b in pairs] == [True, False, True]


@pytest.mark.parametrize(
    "workload",
    [
        conv((2, 9, 8, 6), 70, 3, 2),
        conv((1, 7, 10, 4), 8, 3, padding=(2, 0, 1, 2), dilation=(2, 1)),
        matmul(60, 33, 12),
    ],
)
def test_rows_of_large_layers_are_those_of_the_whole(workload):
    arrays = expected.large(Case("conv", "x", "w8a8", workload), 1)
    given = (arrays.x, arrays.weight, arrays.bias, arrays.params)
    whole = integer_layer(workload, *given, arrays.after["qinfo"])
    rows = whole.reshape(-1, whole.shape[-1])[arrays.rows]
    np.testing.assert_array_equal(arrays.expected, rows)
    assert len(np.unique(rows)) > 50


@pytest.mark.parametrize("make", [expected.small, expected.large])
def test_weight_only_layers_are_the_reference(make):
    workload = weight_only(3, 320, 130, group_size=64, zero_points=True)
    arrays = make(Case("gemm", "x", "w4", workload), 1)
    given = (arrays.x, arrays.weight, arrays.params[0], arrays.bias, arrays.params[1])
    meant = reference.weight_only_matmul(*given, group_size=64)
    np.testing.assert_allclose(arrays.expected, meant, rtol=1e-6)
    bound = reference.weight_only_bound(*given, group_size=64)
    np.testing.assert_allclose(arrays.bound, bound, rtol=1e-5)
    assert np.unique(arrays.expected).size == arrays.expected.size


def test_products_in_float64_are_the_reference():
    torch = pytest.importorskip("torch")
    from benchmarks.gpu.bare.kernels import requantized

    arrays = expected.large(Case("gemm", "x", "w8a8", matmul(40, 900, 30)), 1)
    tensors = map(torch.from_numpy, (arrays.x, arrays.weight, arrays.bias, arrays.params[0]))
    got = requantized(torch, *tensors, arrays.after["qinfo"].tolist())
    np.testing.assert_array_equal(got.numpy()[arrays.rows], arrays.expected)


def test_every_case_has_a_name_of_its_own():
    found = [case for make in cases.PARTS.values() for case in make()]
    assert len({case.key for case in found}) == len(found)
    kinds = {case.workload.op for case in found if case.part == "exact"}
    assert kinds >= {"conv2d", "matmul", "depthwise_conv2d", "matmul_weight_only", "matmul_float"}
    assert {case.workload.requantize for case in found} >= set(reference.FLAVOURS)
    layers = list(shapes.resnet50_layers())
    assert len(layers) == 23 and (56, 256, 512, 1, 2) in layers


def test_defaults_come_first_then_the_best_and_the_unlike():
    sizes = [{"m": m, "n": n} for m in (1, 2, 3) for n in (1, 2, 3)]
    found = [Candidate("a", {}, 1.0, True), Candidate("b", {"m": 9, "n": 9}, 1.0, True)]
    found += [Candidate("b", size, 1 + i / 100, False) for i, size in enumerate(sizes)]
    found.append(Candidate("b", {"m": 7, "n": 7}, 5.0, False))
    chosen = kernels.choose(found, 5)
    assert [c.default for c in chosen] == [True, True, False, False, False]
    assert chosen[2].config == {"m": 1, "n": 1}
    # Then its neighbour, then what differs from both; what is five times slower is not tried.
    assert [c.config for c in chosen[3:]] == [{"m": 1, "n": 2}, {"m": 2, "n": 3}]
    assert all(c.estimate < 2 for c in kernels.choose(found, 99))
    kinds = [Candidate("b", {"m": 5, "n": 5, "splits": n}, 1.5, False) for n in (1, 2, 4)]
    kinds.append(Candidate("b", {"m": 5, "n": 5, "packed": True}, 1.6, False))
    chosen = kernels.choose([*found, *kinds], 5)
    assert {(c.config.get("splits"), c.config.get("packed")) for c in chosen[2:]} == {
        (1, None),
        (2, None),
        (None, True),
    }
    device = get_device("cuda-sm_90")
    real = kernels.choose(candidates(Workload("matmul", (512, 512), (512, 512)), device), 6)
    assert len({(c.rule, str(c.config)) for c in real}) == 6


def row(name, contender, us, precision="", **more):
    found = {"part": "gemm", "name": name, "contender": contender, "us": us, **more}
    return {**found, "precision": precision, "exact": True} if precision else found


def results(*rows):
    machine = {"part": "machine", "name": "machine", "contender": "machine", "device": "A GPU"}
    machine |= {"copy_gbs": 4000.0, "int8_tops": 1000.0, "torch": "2"}
    about = {"target": "cuda-sm_90", "versions": {}}
    return {"date": "today", "set": about, "rows": [machine, *rows], "skipped": []}


def test_goals_are_met_missed_or_not_yet_measured():
    rows = [
        row(GEMM, "torch int8", 10.0),
        row(GEMM, "tvmquant", 20.0, "w8a8", plan=0, folder="f"),
        row(GEMM, "tvmquant", 12.5, "w8a8", plan=1, folder="f"),
        row(GEMM, "tvmquant", 5.0, "w1a1"),
        row("1x4096x4096", "tvmquant", 2.5, "w4 weight-only"),
        # Faster, but wrong.
        row(GEMM, "tvmquant", 1.0, "w8a8") | {"exact": False, "wrong": "3 values differ"},
    ]
    goals = {goal["goal"]: goal for goal in summary.goals(results(*rows))}
    int8, bits = (goals[g] for g in goals if g.startswith(("int8", "1-bit")))
    assert int8["met"] is True and int8["measured"].startswith("0.80")
    assert bits["met"] is False and bits["measured"].startswith("2.50")
    assert [g["measured"] for g in goals.values() if "w4a8" in g["goal"]] == ["not yet measured"]
    assert goals["kernels equal to NumPy"]["measured"] == "4 of 5"
    share = summary.weight_only_share("1x4096x4096", 2.5, 4000.0)
    assert share == pytest.approx(4096 * (4096 / 2 + 32 * 4 + 8) / 2.5e-6 / 4e12)
    assert summary.default_over_best(rows) == [1.6]


def test_reports_say_what_is_not_yet_measured(tmp_path):
    runner = CliRunner()
    done = runner.invoke(main, ["report", "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "gpu.md").read_text()
    layers = 3 * 23 * len(report.CONV)
    assert text.count("not yet measured") > layers
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    first.write_text(json.dumps(results(row(GEMM, "torch int8", 10.0))))
    second.write_text(json.dumps(results(row(GEMM, "torch int8", 7.5))))
    done = runner.invoke(main, ["report", str(first), str(second), "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "gpu.md").read_text()
    assert "Device: A GPU" in text and "**7.5 (14%)**" in text and "10.0" not in text
    first.write_text("{")
    assert "cannot read" in runner.invoke(main, ["report", str(first)]).output


def test_the_report_in_the_repository_is_what_its_numbers_say():
    folder = Path(report.__file__).parents[1] / "results"
    merged = report.merge([json.loads((folder / "gpu.json").read_text(encoding="utf-8"))])
    assert report.to_markdown(merged) == (folder / "gpu.md").read_text(encoding="utf-8")


def test_times_become_records_of_a_database(tmp_path):
    device = get_device("cuda-sm_90")
    workload = Workload("matmul", (512, 1024), (1024, 1024))
    found = candidates(workload, device)[:3]
    rows = []
    for candidate, us in zip(found, (9.0, 5.0, None)):
        more = {"rule": candidate.rule, "config": candidate.config}
        more |= {"workload": {"op": "matmul", "x_shape": (512, 1024), "w_shape": (1024, 1024)}}
        rows.append(row(GEMM, "tvmquant", us, "w8a8", **more))
    rows[2] |= {"exact": None, "error": "CUDA: illegal address"}
    path = tmp_path / "times.jsonl"
    assert records.append(json.loads(json.dumps(results(*rows))), path) == 3
    database = Database(path)
    ranked = database.ranked(workload, dataclasses.replace(device, gpu="A GPU"))
    assert [choice.config for choice in ranked] == [found[1].config, found[0].config]
    assert [r.error for r in database.records if r.seconds is None] == ["CUDA: illegal address"]


def test_a_wheel_that_does_not_exist_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(RuntimeError, match="no-such-engine"):
        slim.download("no-such-engine==1", tmp_path, "3.12")


@pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
def test_a_set_for_a_gpu_has_machine_code(tmp_path):
    case = Case("exact", "tiny", "w4a8", matmul(5, 200, 24, w_bits=4))
    about = kernels.build(case, get_device("cuda-sm_80"), tmp_path / "case", 2, 1)
    assert len(about["plans"]) == 2 and not about["failed"]
    # The library is one image, what nvcc made is another.
    assert (tmp_path / "case" / "kernels.so").read_bytes().count(b"\x7fELF") >= 2
    assert kernels.build(case, get_device("cuda-sm_80"), tmp_path / "case", 1, 1) == json.loads(
        (tmp_path / "case" / "case.json").read_text()
    )


def test_kernels_that_do_not_compile_are_left_out(tmp_path, monkeypatch):
    case = Case("exact", "tiny", "w8a8", matmul(5, 40, 24))
    compiled = kernels._export

    def export(entries, device, path):
        if any(entry[0] is bad for entry in entries):
            raise RuntimeError("ptxas\nerror: too many registers")
        compiled(entries, device, path)

    host = get_device("host")
    bad = kernels.choose(candidates(case.workload, host), 3)[1]
    monkeypatch.setattr(kernels, "choose", lambda *given: [*bad_first])
    bad_first = [bad, *(c for c in candidates(case.workload, host)[:2] if c != bad)]
    monkeypatch.setattr(kernels, "_export", export)
    about = kernels.build(case, host, tmp_path / "case", 3, 1)
    assert [f["error"] for f in about["failed"]] == ["error: too many registers"]
    assert len(about["plans"]) == len(bad_first) - 1


def test_archives_are_the_same_each_time(tmp_path):
    folder = tmp_path / "exact" / "case"
    folder.mkdir(parents=True)
    (folder / "case.json").write_text("{}")
    packed = []
    for name in ("a", "b"):
        prepare.pack(tmp_path / "exact", [folder], tmp_path / name)
        packed.append((tmp_path / name).read_bytes())
    assert packed[0] == packed[1]


def test_what_other_sources_made_is_built_again(tmp_path, monkeypatch):
    case = Case("exact", "tiny", "w8a8", matmul(3, 40, 24))
    job = prepare.Job(case, "host", tmp_path / "case", 1, 7, "one")
    built = []

    def build(case, device, folder, plans, seed):
        path = folder / "case.json"
        if not path.exists():
            built.append(case.key)
            folder.mkdir(exist_ok=True)
            path.write_text('{"plans": [], "failed": []}')
        return json.loads(path.read_text())

    monkeypatch.setattr(prepare, "build", build)
    for stamp in ("one", "one", "", "two"):
        prepare.build_one(dataclasses.replace(job, stamp=stamp))
    assert len(built) == 2
    about = json.loads((tmp_path / "case" / "case.json").read_text())
    assert (about["stamp"], about["order"]) == ("two", 7)
    assert len(prepare.source_stamp()) == 16
