"""Convolutions and matmuls of dequantized tensors: integers, zero points, biases, epilogues."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import interpret, operators
from run_relax import build_module, const
from tvm import relax

from tvmquant.graph import Graph
from tvmquant.ops import is_op, waist
from tvmquant.passes.realize import realize
from tvmquant.passes.realize_linear import LINEAR_OPS
from tvmquant.recipe import Recipe

op = relax.op
RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (1, 5, 6, 4)).astype(np.uint8)
SCALE, ZERO = const(np.float32(0.02)), const(np.uint8(117))
OUT = {"bits": 8, "qmin": 0, "qmax": 255, "dtype": "uint8"}


def weights(shape, *, scale=0.01, zero=0, low=-127, bits=8, axis=0, dtype=np.int8):
    q = const(RNG.integers(low, -low + 1, shape).astype(dtype))
    return waist.dequantize(
        q,
        const(np.asarray(scale, np.float32)),
        const(np.broadcast_to(np.asarray(zero, dtype), np.shape(scale)).copy()),
        bits=bits,
        axis=axis,
    )


def conv_of(emit, x, weight, **attrs):
    x = emit(waist.dequantize(x, SCALE, ZERO, bits=8))
    layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI"}
    return emit(op.nn.conv2d(x, emit(weight), **layouts, **attrs))


def linear(mod):
    (value,) = [v for _, v in Graph(mod).bindings if is_op(v, *LINEAR_OPS)]
    return value


def check(body, *arrays, recipe=None, steps=0):
    """Realized graph and QDQ graph agree to ``steps`` (integers) or rounding (float)."""
    mod = build_module(arrays, body)
    out = realize(mod, recipe or Recipe())
    (want,), (got,) = interpret(mod, arrays), interpret(out, arrays)
    assert got.dtype == want.dtype
    if got.dtype == np.float32:
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.ptp(want))
    else:
        difference = np.abs(got.astype(int) - want.astype(int))
        assert difference.max() <= max(steps, 1)
        assert np.mean(difference > steps) < 0.01
    return out


@pytest.mark.parametrize(
    "attrs",
    [{}, {"strides": [2, 1], "padding": [1, 0, 2, 1]}, {"dilation": [2, 1], "groups": 2}],
)
@pytest.mark.parametrize("scale", [0.01, np.linspace(0.001, 0.02, 6)])
def test_conv2d(scale, attrs):
    shape = (6, 3, 2, 4 // attrs.get("groups", 1))

    def body(emit, x):
        return conv_of(emit, x, weights(shape, scale=scale), **attrs)

    assert operators(check(body, X)) == ["tvmquant.conv2d"]


@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 8), (2, 1, 3, 8)])
def test_matmul(shape):
    x = RNG.integers(0, 256, shape).astype(np.uint8)

    def body(emit, x):
        real = emit(waist.dequantize(x, SCALE, ZERO, bits=8))
        w = emit(weights((8, 5), scale=np.linspace(0.01, 0.02, 5), axis=1))
        return op.add(emit(op.matmul(real, w)), const(RNG.standard_normal(5).astype(np.float32)))

    assert operators(check(body, x)) == ["tvmquant.matmul"]


def test_batched_matmul():
    a, b = (RNG.integers(0, 256, s).astype(np.uint8) for s in ((2, 1, 3, 8), (4, 8, 5)))

    def body(emit, a, b):
        x, y = (emit(waist.dequantize(t, SCALE, ZERO, bits=8)) for t in (a, b))
        return waist.quantize(emit(op.matmul(x, y)), const(np.float32(0.3)), ZERO, **OUT)

    assert operators(check(body, a, b)) == ["tvmquant.batch_matmul"]


def bias_add(emit, y, values):
    return emit(op.add(y, const(np.asarray(values, np.float32))))


def test_bias_clip_and_requantization_are_one_operator():
    def body(emit, x):
        y = bias_add(emit, conv_of(emit, x, weights((6, 1, 1, 4))), RNG.standard_normal(6))
        return waist.quantize(emit(op.clip(emit(op.nn.relu(y)), -1, 3)), SCALE, ZERO, **OUT)

    out = check(body, X)
    assert operators(out) == ["tvmquant.conv2d"]
    attrs = linear(out).attrs
    assert (int(attrs["out_min"]), int(attrs["out_max"])) == (117, 255)
    assert str(attrs["requantize"]) == "float"


@pytest.mark.parametrize("flavour", ["fixed_point", "power_of_two"])
def test_flavours(flavour):
    """Scales that are no powers of two cannot be shifts: they become fixed-point multipliers."""

    def body(emit, x):
        return waist.quantize(conv_of(emit, x, weights((6, 1, 1, 4))), SCALE, ZERO, **OUT)

    out = check(body, X, recipe=Recipe(requantize=flavour))
    assert str(linear(out).attrs["requantize"]) == "fixed_point"


@settings(max_examples=25, deadline=None)
@given(st.floats(-1e12, 1e12), st.sampled_from([1e-30, 1e-12, 1e-3, 10.0]))
def test_any_bias_fits_into_32_bits(bias, scale):
    values = np.array([bias, 1, -1, 0, 0.5, -bias], np.float32)

    def body(emit, x):
        scales = np.full(6, 0.01)
        scales[[0, 5]] = scale
        return bias_add(emit, conv_of(emit, x, weights((6, 1, 1, 4), scale=scales)), values)

    mod = build_module([X], body)
    (want,), (got,) = interpret(mod, [X]), interpret(realize(mod, Recipe()), [X])
    for channel in range(6):  # each by its own size
        allowed = 1e-4 * np.abs(want[..., channel]).max() + 0.02 * scale
        assert np.abs(got[..., channel] - want[..., channel]).max() <= allowed


def test_scale_after_a_layer():
    def body(emit, x):
        y = bias_add(emit, conv_of(emit, x, weights((6, 1, 1, 4))), np.ones(6))
        return op.multiply(y, const(np.float32(0.5)))

    assert operators(check(body, X)) == ["tvmquant.conv2d"]

    def negative(emit, x):
        return op.multiply(conv_of(emit, x, weights((6, 1, 1, 4))), const(np.float32(-0.5)))

    assert operators(check(negative, X)) == ["tvmquant.conv2d", "multiply"]


def test_a_second_bias_stays_an_addition():
    def body(emit, x):
        y = bias_add(emit, conv_of(emit, x, weights((6, 1, 1, 4))), np.ones(6))
        return bias_add(emit, y, np.arange(6))

    assert operators(check(body, X)) == ["tvmquant.conv2d", "add"]


WEIGHTS = {
    "zero points": (weights((6, 1, 1, 4), low=-60, scale=np.full(6, 0.1), zero=[3] * 6), 8),
    "unsigned": (weights((6, 1, 1, 4), low=0, zero=0, dtype=np.uint8), 2),
    "4 bits": (weights((6, 1, 1, 4), low=-7, bits=4), 4),
    "2 bits": (weights((6, 1, 1, 4), low=-1, bits=2), 2),
    "4 bits by name only": (weights((6, 1, 1, 4), low=-100, bits=4), 8),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(name):
    weight, bits = WEIGHTS[name]
    out = check(lambda emit, x: conv_of(emit, x, weight), X)
    assert operators(out) == ["tvmquant.conv2d"]
    if name != "unsigned":
        assert int(linear(out).attrs["w_bits"]) == bits


def test_one_bit_has_no_zero():
    signs = const(np.where(RNG.random((6, 1, 1, 4)) < 0.5, -1, 1).astype(np.int8))
    for values, bits in ((signs, 1), (const(np.zeros((6, 1, 1, 4), np.int8)), 2)):
        weight = waist.dequantize(values, SCALE, const(np.int8(0)), bits=1)
        out = check(lambda emit, x, w=weight: conv_of(emit, x, w), X)
        assert int(linear(out).attrs["w_bits"]) == bits


def test_weights_beyond_int8_stay_float():
    weight = waist.dequantize(
        const(np.full((6, 1, 1, 4), 250, np.uint8)), SCALE, const(np.uint8(3)), bits=8
    )
    assert "nn.conv2d" in operators(check(lambda emit, x: conv_of(emit, x, weight), X))


def test_integer_accumulators():
    """``ConvInteger`` and ``MatMulInteger``: scale one, cast to int32."""
    one = const(np.float32(1))

    def body(emit, x):
        real = emit(waist.dequantize(x, one, const(np.uint8(3)), bits=8))
        w = emit(weights((4, 7), scale=1.0, axis=1))
        return op.astype(emit(op.matmul(real, w)), "int32")

    out = check(body, X)
    assert operators(out) == ["tvmquant.matmul"]
    assert str(linear(out).attrs["requantize"]) == "none"
