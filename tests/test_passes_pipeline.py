"""The order of the phases, their progress and their dumps."""

from __future__ import annotations

import numpy as np
import pytest
from networks import Net, interpret, operators

import tvmquant
from tvmquant.errors import InputError
from tvmquant.frontend import load_model
from tvmquant.passes.pipeline import (
    ANNOTATED,
    is_quantized,
    recorded_stages,
    to_integers,
    to_qdq,
)
from tvmquant.recipe import Recipe


@pytest.fixture
def network():
    net = Net()
    y = net.op("Relu", net.conv(net.input(1, 3, 6, 6), 3, 4))
    return net.model(net.conv(y, 4, 2)), net.data(2)


def test_every_phase_is_dumped(network, tmp_path, monkeypatch):
    model, data = network
    folder = tmp_path / "dump"
    monkeypatch.setenv("TVMQUANT_DUMP", str(folder))
    tvmquant.compile(model, calibration=data)
    written = sorted(path.name for path in folder.iterdir())
    assert written == [
        "1_simplify.py",
        "2_annotate.py",
        "3_calibrate.py",
        "3_correct.py",
        "4_realize.py",
        "5_pack.py",
        "6_lower.py",
    ]
    texts = {path.name[0]: path.read_text() for path in folder.iterdir()}
    assert "tvmquant.observe" in texts["2"]
    assert "tvmquant.dequantize" in texts["3"]
    assert "tvmquant.conv2d" in texts["4"]
    assert "tvmquant.packed" in texts["5"]
    assert "call_tir" in texts["6"]


def test_no_dump_without_the_variable(network, tmp_path, monkeypatch):
    monkeypatch.delenv("TVMQUANT_DUMP", raising=False)
    monkeypatch.chdir(tmp_path)
    tvmquant.quantize(network[0], calibration=network[1])
    assert not list(tmp_path.iterdir())


def test_a_dump_that_cannot_be_written(network, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TVMQUANT_DUMP", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"TVMQUANT_DUMP: cannot write to .*file"):
        tvmquant.quantize(network[0], calibration=network[1])


def test_progress(network):
    model, data = network
    seen = []
    tvmquant.compile(model, calibration=data, progress=lambda *step: seen.append(step))
    stages = list(dict.fromkeys(stage for stage, _, _ in seen))
    assert stages == [
        "import",
        "simplify",
        "annotate",
        "calibrate",
        "correct",
        "realize",
        "pack",
        "lower",
        "build",
    ]
    assert ("calibrate", 2, 2) in seen
    assert seen[-1] == ("build", 1, 1)


def test_a_quantized_graph_is_not_quantized_again(network):
    model, data = network
    recipe = Recipe()
    batches = [list(feeds.values()) for feeds in data]
    float_mod = load_model(model).mod
    assert not is_quantized(float_mod)
    qdq = to_qdq(float_mod, recipe, lambda: batches)
    assert is_quantized(qdq)

    def never():
        raise AssertionError("calibration data must not be asked for")

    again = to_qdq(qdq, Recipe.for_bits(2), never)
    assert operators(to_integers(again, recipe)) == operators(to_integers(qdq, recipe))


def test_inputs_are_not_changed(network):
    model, data = network
    before = [{name: array.copy() for name, array in feeds.items()} for feeds in data]
    tvmquant.quantize(model, calibration=data)
    for feeds, kept in zip(data, before):
        for name in feeds:
            np.testing.assert_array_equal(feeds[name], kept[name])


def test_stages_are_recorded_only_where_asked_for(network):
    model, data = network
    batches = [list(feeds.values()) for feeds in data]
    with recorded_stages() as stages:
        qdq = to_qdq(load_model(model).mod, Recipe(), lambda: batches)
    to_qdq(load_model(model).mod, Recipe(), lambda: batches)
    assert stages["3_calibrate"].same_as(qdq)
    assert not is_quantized(stages[ANNOTATED])
    reference = tvmquant.quantize(model, calibration=data).reference
    np.testing.assert_array_equal(
        interpret(reference, batches[0])[0], interpret(stages[ANNOTATED], batches[0])[0]
    )
