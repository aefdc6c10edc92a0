"""Measuring as on a lesser processor: who is limited, who is compared; nothing is timed."""

import os

import pytest
from click.testing import CliRunner

from benchmarks import limits, models
from benchmarks.machine import describe_machine
from benchmarks.report import best_int8_peer, model_table
from benchmarks.write import write_report
from tvmquant.targets import get_device


@pytest.fixture
def as_avx2(monkeypatch):
    if "avx2" not in get_device().features:
        pytest.skip("this processor has no AVX2")
    # Set first, so that what limit() sets is taken back.
    for name in ("TVMQUANT_BENCHMARK_ISA", "ONEDNN_MAX_CPU_ISA"):
        monkeypatch.setenv(name, "")
    limits.limit("avx2")


def test_the_host_is_not_limited():
    limits.limit("host")
    assert limits.limited() == "host" and limits.device().features == get_device().features
    assert limits.suffix("host") == "" and limits.obeys("onnxruntime")


def test_a_limit_is_for_tvmquant_and_for_openvino(as_avx2):
    assert os.environ["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert limits.device().isa == describe_machine()["isa"] == "avx2"
    assert not {"avx512f", "avx512vnni", "avxvnni"} & limits.device().features
    obedient = [e for e in models.ENGINES if limits.obeys(e)]
    assert obedient == ["tvmquant", "openvino"]


def test_engines_that_were_not_limited_are_shown_but_not_compared(tmp_path):
    def row(engine, ms, **more):
        spread = {"median": ms, "p10": ms, "p90": ms}
        times = {"1": {"cpu": spread, "wall": spread}}
        return {
            **{"name": f"{engine} int8", "engine": engine, "precision": "int8"},
            **{"times": times, "model_mb": 12.34, **more},
        }

    rows = [row("onnxruntime", 1.0, obeys=False), row("openvino", 3.0, obeys=True)]
    model = {"name": "net", "notes": [], "threads": [1], "rows": rows}
    assert best_int8_peer(model, 1)["engine"] == "openvino"
    names = [str(cell) for cell in model_table(model).columns[0].cells]
    assert names == ["onnxruntime int8 (not limited)", "openvino int8"]
    machine = {
        **{"cpu": "a processor", "isa": "avx2", "features": [], "physical_cores": 1},
        **{"memory_gb": 1, "load_average": [0], "system": "Linux"},
    }
    pytest.importorskip("matplotlib")
    report = {"date": "2026-01-01", "settings": {"rounds": 1}, "peaks": {}, "versions": {}}
    write_report({**report, "machine": machine, "models": [model]}, tmp_path, "_avx2")
    assert {path.name for path in tmp_path.iterdir()} >= {"models_avx2.json", "models_avx2.md"}
    assert "| 12.3 |" in (tmp_path / "models_avx2.md").read_text()


def test_unknown_instruction_sets_are_refused():
    result = CliRunner().invoke(models.main, ["resnet18", "--isa", "mmx"])
    assert result.exit_code == 2 and "avx2" in result.output
