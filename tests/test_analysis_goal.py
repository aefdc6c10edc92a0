"""Data sets that a drop is measured on."""

import numpy as np
import pytest
from analysis_tools import data, labels, network, recipe

import tvmquant
from tvmquant.analysis import goal as module
from tvmquant.analysis.goal import Goal
from tvmquant.errors import InputError


@pytest.fixture(scope="module")
def model():
    return tvmquant.quantize(network(), calibration=data(), recipe=recipe(8))


def test_labels_make_it_top_1(model, tmp_path):
    x = data(20, seed=2)
    y = labels(network(), x)
    y[:5] = (y[:5] + 1) % 5
    np.savez(tmp_path / "d.npz", x=x, y=y, x_calib=x[:2])
    for source in (tmp_path / "d.npz", {"image": x, "y": y}, {"x": x, "y": y}):
        found = Goal(source, model)
        assert found.labelled and found.unit == "points of top-1"
        assert found.float_value() == 75


@pytest.mark.parametrize("kind", ["array", "dict", "list"])
def test_without_labels_it_is_the_sqnr(model, kind):
    x = data(4, seed=2)
    source = {"array": x, "dict": {"x": x}, "list": [sample[None] for sample in x]}[kind]
    found = Goal(source, model)
    assert not found.labelled
    assert 5 < found.value(model) < 40


@pytest.mark.parametrize("labelled", [True, False])
def test_the_compiled_model_gives_the_same_value(model, labelled, monkeypatch):
    x = data(6, seed=2)
    source = {"x": x, "y": labels(network(), x)} if labelled else x
    interpreted = Goal(source, model).value(model)
    compiled = []
    monkeypatch.setattr(module, "_COMPILE_SECONDS", 0.0)
    real = module.compile_model
    monkeypatch.setattr(module, "compile_model", lambda m: compiled.append(m) or real(m))
    assert Goal(source, model).value(model) == interpreted
    assert compiled == [model]


def test_data_that_does_not_fit(model, tmp_path):
    with pytest.raises(InputError, match="'image'"):
        Goal({"picture": data(), "y": np.zeros(8, int)}, model)
    with pytest.raises(InputError, match=r"dataset: .*uint8"):
        Goal({"x": data().astype(np.uint8)}, model)
    with pytest.raises(InputError, match=r"missing\.npz"):
        Goal(tmp_path / "missing.npz", model)
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(InputError, match="damaged"):
        Goal(tmp_path / "text.npz", model)
    with pytest.raises(InputError, match="class number"):
        Goal({"x": data(), "y": np.zeros(8)}, model).float_value()
