"""Ranges of a graph from its batch norms."""

import warnings

import numpy as np
import pytest
from batch_norm_tools import pictures, residual
from networks import Net, interpret

from tvmquant.errors import CalibrationWarning, RecipeError
from tvmquant.frontend import load_model
from tvmquant.graph import Graph, const_value, name_of
from tvmquant.passes.annotate import annotate
from tvmquant.passes.batch_norms import find_batch_norms
from tvmquant.passes.calibrate import calibrate
from tvmquant.passes.calibrate_analytic import calibrate_analytic
from tvmquant.passes.simplify import simplify
from tvmquant.recipes import find_recipe


def prepared(model, recipe):
    imported = load_model(model).mod
    return annotate(simplify(imported), recipe), find_batch_norms(imported)


def scales(mod):
    return {
        var.name: float(const_value(value.args[1]))
        for var, value in Graph(mod).bindings
        if name_of(value) == "tvmquant.quantize"
    }


@pytest.mark.parametrize("bits", ["w8a8", "w4a4"])
def test_scales_are_close_to_those_of_data(bits):
    _, model = residual()
    recipe = find_recipe("data_free", bits)
    mod, norms = prepared(model, recipe)
    found = scales(calibrate_analytic(mod, norms, recipe))
    by_data = find_recipe("fast", bits) if bits == "w8a8" else find_recipe("standard_ptq", bits)
    annotated = annotate(simplify(load_model(model).mod), by_data)
    wanted = scales(calibrate(annotated, [list(f.values()) for f in pictures(24)], by_data))
    assert found.keys() == wanted.keys() and len(found) >= 6
    for name, scale in wanted.items():
        # Six deviations are more than two dozen pictures reach, much more behind a pooling.
        assert 0.5 * scale < found[name] < 8 * scale


def test_the_graph_computes_what_it_did():
    _, model = residual()
    recipe = find_recipe("data_free")
    mod, norms = prepared(model, recipe)
    qdq = calibrate_analytic(mod, norms, recipe)
    pairs = [[interpret(m, list(f.values()))[0] for m in (mod, qdq)] for f in pictures(16, seed=3)]
    error = sum(np.sum((a - b) ** 2) for a, b in pairs) / sum(np.sum(a**2) for a, _ in pairs)
    assert error < 1e-2


@pytest.mark.parametrize("plain", [0, 3])
def test_many_layers_without_batch_norms_are_named(plain):
    net = Net()
    y = net.input(1, 4, 8, 8)
    for i in range(4):
        y = net.conv(y, 4, 4, name=f"conv{i}")
        if i >= plain:
            ones = [np.full(4, value, np.float32) for value in (1, 0.1, 0, 1)]
            y = net.op("BatchNormalization", y, *ones)
        y = net.op("Relu", y)
    recipe = find_recipe("data_free")
    mod, norms = prepared(net.model(y), recipe)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        calibrate_analytic(mod, norms, recipe)
    told = [str(one.message) for one in caught if one.category is CalibrationWarning]
    assert len(told) == (plain > 0)
    assert not told or ("3 of 4 layers have no batch norm" in told[0] and "conv0" in told[0])


def test_a_model_without_batch_norms_is_refused():
    net = Net()
    recipe = find_recipe("data_free")
    mod, norms = prepared(net.model(net.conv(net.input(1, 3, 8, 8), 3, 4)), recipe)
    with pytest.raises(RecipeError, match="the model has no batch norms"):
        calibrate_analytic(mod, norms, recipe)
