"""From observed data to a QDQ graph."""

from __future__ import annotations

import tracemalloc
import warnings

import numpy as np
import pytest
from networks import Net, interpret, operators

from tvmquant.calibration import activation_params
from tvmquant.calibration.base import ESTIMATOR_NAMES
from tvmquant.errors import CalibrationError, CalibrationWarning
from tvmquant.frontend import load_model
from tvmquant.graph import Graph
from tvmquant.ops import is_op
from tvmquant.passes.annotate import annotate
from tvmquant.passes.calibrate import calibrate
from tvmquant.passes.simplify import simplify
from tvmquant.quant_spec import QuantSpec
from tvmquant.recipe import Recipe

MINMAX = QuantSpec(estimator="minmax")


def annotated(recipe, *, joined=False):
    net = Net()
    y = net.op("Relu", net.conv(net.input(1, 3, 6, 6), 3, 4), name="act")
    if joined:
        y = net.op("Concat", y, net.op("Mul", net.conv(y, 4, 4), np.float32(9)), axis=1)
    y = net.conv(y, 8 if joined else 4, 2)
    batches = [list(feeds.values()) for feeds in net.data(3)]
    return annotate(simplify(load_model(net.model(y)).mod), recipe), batches


def quantize_nodes(mod):
    return [value for _, value in Graph(mod).bindings if is_op(value, "tvmquant.quantize")]


def numbers(call):
    return float(call.args[1].value.numpy()), int(call.args[2].value.numpy())


def test_scales_come_from_the_data():
    mod, batches = annotated(Recipe(activations=MINMAX))
    out = calibrate(mod, iter(batches), Recipe(activations=MINMAX))
    assert not {"tvmquant.observe", "tvmquant.observe_weight"} & set(operators(out))
    first, second = quantize_nodes(out)
    x = np.stack(batches)
    scale, zero = activation_params(x.min(), x.max(), 8)
    assert numbers(first) == (float(scale), zero)
    assert numbers(second)[1] == 0  # behind a ReLU


def test_the_graph_still_computes_in_float_with_a_step_of_error():
    recipe = Recipe(activations=MINMAX)
    mod, batches = annotated(recipe)
    out = calibrate(mod, batches, recipe)
    for arrays in batches:
        (want,), (got,) = interpret(mod, arrays), interpret(out, arrays)
        assert 0 < np.abs(got - want).max() < 0.03 * np.ptp(want)


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
@pytest.mark.parametrize("symmetric", [False, True])
def test_bits_and_symmetry(bits, symmetric):
    recipe = Recipe(
        activations=QuantSpec(bits=bits, symmetric=symmetric, estimator="mse"),
        first_last_bits=None,
    )
    out = calibrate(*annotated(recipe), recipe)
    first, second = quantize_nodes(out)
    for call in (first, second):
        assert int(call.attrs["bits"]) == bits
        assert (int(call.attrs["qmin"]), int(call.attrs["qmax"])) == (0, 2**bits - 1)
    if symmetric and bits > 1:
        assert numbers(first)[1] == 2 ** (bits - 1)


def test_power_of_two_scales_everywhere():
    recipe = Recipe(requantize="power_of_two")
    out = calibrate(*annotated(recipe), recipe)
    for _, value in Graph(out).bindings:
        if is_op(value, "tvmquant.quantize", "tvmquant.dequantize"):
            np.testing.assert_array_equal(np.frexp(value.args[1].value.numpy())[0], 0.5)


def test_a_group_has_one_range():
    recipe = Recipe(activations=MINMAX)
    out = calibrate(*annotated(recipe, joined=True), recipe)
    _, *joined = quantize_nodes(out)
    assert len(joined) >= 2
    assert len({numbers(call) for call in joined}) == 1


def test_batches_are_consumed_once_and_counted():
    mod, batches = annotated(Recipe())
    seen = []
    calibrate(mod, iter(batches), Recipe(), lambda *step: seen.append(step))
    assert seen == [("calibrate", 1, 1), ("calibrate", 2, 2), ("calibrate", 3, 3)]
    seen.clear()
    calibrate(mod, batches, Recipe(), lambda *step: seen.append(step), total=5)
    assert seen[-1] == ("calibrate", 3, 5)


def test_complaints():
    mod, _ = annotated(Recipe())
    with pytest.raises(CalibrationError, match="empty: give at least one sample"):
        calibrate(mod, [], Recipe())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_left_out(value):
    mod, batches = annotated(Recipe(activations=MINMAX))
    clean = [call for call in quantize_nodes(calibrate(mod, batches, Recipe(activations=MINMAX)))]
    batches = [*batches, [np.full_like(batches[0][0], 0.1)]]
    batches[-1][0][0, 0, 0, 0] = value
    with pytest.warns(
        CalibrationWarning, match=r"range of to_nhwc \(1 of 432 values\), act"
    ) as all:
        got = quantize_nodes(calibrate(mod, batches, Recipe(activations=MINMAX)))
    assert len(all) == 1
    assert numbers(got[0]) == numbers(clean[0])
    assert numbers(got[1])[0] == pytest.approx(numbers(clean[1])[0], rel=0.2)


def test_a_warning_for_every_kind_of_odd_data():
    mod, batches = annotated(Recipe())
    many = [[batches[i % 3][0] + 0.01 * i] for i in range(12)]

    def texts(data):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            calls = quantize_nodes(calibrate(mod, data, Recipe(activations=MINMAX)))
        for call in calls:
            assert 0 < numbers(call)[0] < np.inf
        return " | ".join(str(item.message) for item in caught)

    assert texts(many) == ""
    assert "all ranges rest on one sample" in texts(batches[:1])
    assert "always the same value (a dead layer or constant inputs) in to_nhwc (0)" in texts(
        [[np.zeros_like(batches[0][0])]] * 2
    )
    many[5][0][0, 1, 2, 3] = 1e8
    assert "outliers were left out of the range of to_nhwc (up to 1e+08" in texts(many)
    mod, _ = annotated(Recipe(activations=MINMAX))
    assert "outliers stretch the range (percentile leaves" in texts(many)


@pytest.mark.parametrize("estimator", ESTIMATOR_NAMES)
def test_bad_data_never_yields_a_bad_scale(estimator):
    for bits in (8, 4, 1):
        spec = QuantSpec(bits=bits, estimator=estimator)
        mod, batches = annotated(Recipe(activations=spec, first_last_bits=None))
        zero, bad = np.zeros_like(batches[0][0]), np.full_like(batches[0][0], np.nan)
        outlier, huge = batches[0][0].copy(), np.full_like(zero, 3e38)
        outlier[0, 0, 0, 0] = 1e8
        for data in ([zero], [bad], [outlier, zero], [huge], [-huge], [zero + 1e-38], [bad, zero]):
            with pytest.warns(CalibrationWarning):
                out = calibrate(mod, [[x] for x in data], Recipe(activations=spec))
            for call in quantize_nodes(out):
                scale, zero_point = numbers(call)
                assert np.finfo(np.float32).tiny <= scale < np.inf
                assert 0 <= zero_point < 2**bits


def test_memory_does_not_grow_with_the_samples():
    spec = QuantSpec(estimator="mse")
    mod, _ = annotated(Recipe(activations=spec))

    def peak(count):
        rng = np.random.default_rng(0)
        stream = ([rng.standard_normal((1, 3, 6, 6)).astype(np.float32)] for _ in range(count))
        tracemalloc.start()
        calibrate(mod, stream, Recipe(activations=spec))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(2)
    assert peak(400) < peak(20) + 50_000
