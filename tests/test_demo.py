"""The demo: what it reports, at two precisions and a few pictures."""

import io
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tvmquant import demo
from tvmquant.errors import BundleError
from tvmquant.runtime import CompiledModel

ASSETS = Path(str(files("tvmquant") / "assets"))


@pytest.fixture(scope="module")
def small():
    stages = []
    result = demo.run_demo(
        lambda *step: stages.append(step), precisions=(8, "w4a8"), pictures=100, rounds=3
    )
    return result, stages


def test_float_first_then_every_precision(small):
    rows = small[0].rows
    assert [row.precision for row in rows] == ["float (ONNX Runtime)", "w8a8", "w4a8"]
    assert rows[0].speedup == 1 and rows[0].file_bytes == (ASSETS / "demo.onnx").stat().st_size
    for row in rows:
        assert row.median_ms > 0
        assert row.speedup == pytest.approx(rows[0].median_ms / row.median_ms)


def test_accuracy_is_that_of_a_trained_network_and_8_bits_keep_it(small):
    rows = small[0].rows
    assert rows[0].top1 > 0.85
    assert rows[1].top1 >= rows[0].top1 - 0.02


def test_fewer_bits_are_a_smaller_file(small):
    sizes = [row.file_bytes for row in small[0].rows]
    assert sizes[0] > sizes[1] > sizes[2]


def test_progress_reaches_the_end_of_every_stage(small):
    ends = {stage: (done, total) for stage, done, total in small[1]}
    assert ends == {"compile": (2, 2), "evaluate": (3, 3), "measure": (3, 3)}


def test_one_table_that_names_machine_and_versions(small):
    console = Console(width=160, file=io.StringIO())
    console.print(small[0].table())
    text = " ".join(console.file.getvalue().split())
    for word in ("w4a8", "top-1", "file size", "latency", "speed-up", "onnxruntime", "1.00×"):
        assert word in text
    assert demo.machine_name() in text
    assert json.loads(json.dumps(small[0].to_dict()))["pictures"] == 100


def test_float_row_is_the_network_in_onnx_runtime():
    with np.load(ASSETS / "demo_test.npz") as data:
        x = demo.normalise(data["x"][:1])
    assert x.dtype == np.float32 and x.min() == -1 and x.shape == demo.SHAPE
    assert demo.FloatModel(ASSETS / "demo.onnx")(x).shape == (1, 10)


def test_interleaved_runs_every_model_in_every_round():
    calls = []
    models = [lambda x, name=name: calls.append(name) for name in "ab"]
    times = demo.interleaved(models, None, rounds=2, progress=lambda *_: None, warmup=1)
    assert "".join(calls) == "ab" + "aabb" * 2 and len(times) == 2


def test_without_a_linker_the_model_runs_from_memory(tiny_model, monkeypatch):
    def refuse(_self, _folder):
        raise BundleError("no linker")

    monkeypatch.setattr(CompiledModel, "save", refuse)
    assert demo._through_disk(tiny_model) == (tiny_model, None)
