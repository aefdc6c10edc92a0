"""Rounding of whole blocks."""

import importlib.util

import numpy as np
import pytest
from correction_tools import network, prepared, samples
from networks import Net, interpret

import tvmquant
from tvmquant.errors import CalibrationWarning, RecipeError
from tvmquant.frontend import load_model
from tvmquant.graph import Graph, is_const
from tvmquant.ops import is_op
from tvmquant.passes.annotate import annotate
from tvmquant.passes.calibrate import calibrate
from tvmquant.passes.correct import correct
from tvmquant.passes.reconstruct import reconstruct
from tvmquant.passes.simplify import simplify
from tvmquant.recipe import Recipe


def test_without_torch_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    _, model = network()
    recipe = Recipe.for_bits("w4a8", rounding="brecq")
    with pytest.raises(RecipeError, match=r"pip install 'tvmquant\[qat\]'"):
        tvmquant.quantize(model, recipe=recipe, calibration=[s[0] for s in samples(2)])


@pytest.fixture
def options():
    pytest.importorskip("torch")
    from tvmquant.calibration.brecq import BrecqOptions

    return BrecqOptions(iterations=120, batch=16, rate=0.08)


def loss(mod, other, batches):
    pairs = [(interpret(mod, b)[0], interpret(other, b)[0]) for b in batches]
    return sum(np.sum((a - b) ** 2) for a, b in pairs) / sum(np.sum(a**2) for a, _ in pairs)


@pytest.mark.parametrize(
    "bits", ["w2a4", *(pytest.param(bits, marks=pytest.mark.slow) for bits in ("w2a8", "w1a8"))]
)
def test_unseen_data_comes_nearer_to_the_float_network(bits, options):
    mod, qdq, batches, recipe = prepared(bits, 48, rounding="brecq", bias_correction=True)
    fixed = reconstruct(mod, qdq, batches, recipe, options=options)
    unseen = samples(16, seed=9)
    assert loss(mod, fixed, unseen) < 0.7 * loss(mod, qdq, unseen)


def test_what_cannot_be_bettered_stays(options):
    from dataclasses import replace

    mod, qdq, batches, recipe = prepared("w4a4", 8, rounding="brecq", bias_correction=True)
    good = correct(mod, qdq, batches, recipe)
    wild = replace(options, iterations=3, rate=50.0, scale_rate=5.0, shift_rate=500.0)
    fixed = reconstruct(mod, good, batches, recipe, options=wild)
    for arrays in batches:
        np.testing.assert_array_equal(interpret(good, arrays)[0], interpret(fixed, arrays)[0])


def weights(mod):
    return {
        str(var.name): value.args[0].value.numpy()
        for var, value in Graph(mod).bindings
        if is_op(value, "tvmquant.dequantize") and is_const(value.args[0])
    }


def scales(mod, bits):
    return [
        float(value.args[1].value.numpy())
        for _, value in Graph(mod).bindings
        if is_op(value, "tvmquant.quantize") and int(value.attrs["bits"]) == bits
    ]


def test_scales_are_learned_below_eight_bits_only(options):
    mod, qdq, batches, recipe = prepared("w2a4", 24, rounding="brecq")
    fixed = reconstruct(mod, qdq, batches, recipe, options=options)
    assert scales(fixed, 8) == scales(qdq, 8)
    assert scales(fixed, 4) != scales(qdq, 4)
    # Both ends of an edge agree.
    graph = Graph(fixed)
    for _, value in graph.bindings:
        source = graph.value(value.args[0]) if is_op(value, "tvmquant.dequantize") else None
        if is_op(source, "tvmquant.quantize"):
            assert source.args[1].value.numpy() == value.args[1].value.numpy()


def test_powers_of_two_stay(options):
    changes = {"rounding": "brecq", "requantize": "power_of_two"}
    mod, qdq, batches, recipe = prepared("w2a4", 8, **changes)
    fixed = reconstruct(mod, qdq, batches, recipe, options=options)
    assert scales(fixed, 4) == scales(qdq, 4)


def test_operators_that_torch_does_not_know_are_named(options):
    net = Net()
    y = net.op("Relu", net.conv(net.input(1, 4, 6, 6), 4, 4, name="first"))
    y = net.op("CumSum", net.conv(y, 4, 4, name="second"), np.array(1))
    model = net.model(net.conv(y, 4, 4, name="third"))
    recipe = Recipe.for_bits("w2a8", first_last_bits=None, rounding="brecq")
    mod = annotate(simplify(load_model(model).mod), recipe)
    batches = [list(feeds.values()) for feeds in net.data(8)]
    qdq = calibrate(mod, batches, recipe)
    with pytest.warns(CalibrationWarning, match=r"cumsum cannot be learned through.*third"):
        fixed = reconstruct(mod, qdq, batches, recipe, options=options)
    before, after = weights(qdq), weights(fixed)
    np.testing.assert_array_equal(before["third/weight"], after["third/weight"])
    assert (before["second/weight"] != after["second/weight"]).any()


def test_the_whole_way_runs_as_integers(options, monkeypatch):
    import tvmquant.calibration.brecq as brecq

    monkeypatch.setattr(brecq, "BrecqOptions", lambda: options)
    _, model = network()
    recipe = Recipe.for_bits("w2a4", rounding="brecq", bias_correction="empirical")
    seen = []
    quantized = tvmquant.quantize(
        model,
        recipe=recipe,
        calibration=[s[0] for s in samples(24)],
        progress=lambda *step: seen.append(step),
    )
    assert seen[-1][0] == "reconstruct" and seen[-1][1] == seen[-1][2]
    compiled = tvmquant.compile(quantized)
    (x,) = samples(1, seed=9)[0]
    (want,) = interpret(quantized.mod, [x])
    np.testing.assert_allclose(compiled(x), want, atol=0.05 * np.abs(want).max())
