"""Sums, products, pools and tables of quantized tensors against their QDQ form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import interpret, operators
from run_relax import build_module, const
from tvm import relax

from tvmquant.ops import waist
from tvmquant.passes.realize import realize
from tvmquant.recipe import Recipe

op = relax.op
RNG = np.random.default_rng(0)
A, B = (RNG.integers(0, 256, (1, 5, 6, 3)).astype(np.uint8) for _ in "ab")
OUT = {"bits": 8, "qmin": 0, "qmax": 255, "dtype": "uint8"}
FLAVOURS = ["float", "fixed_point", "power_of_two"]


def real(emit, q, scale, zero, bits=8):
    point = const(np.uint8(zero))
    return emit(waist.dequantize(q, const(np.float32(scale)), point, bits=bits))


def check(expected, body, *arrays, scale=0.0513, zero=90, flavour="float", ties=0.02):
    """``body(emit, *arrays)`` quantized to ``scale`` and ``zero`` is ``expected``, to a step.

    A step may lie between them where the real value is half way between two integers: for a share
    ``ties`` of the elements.
    """

    def whole(emit, *qs):
        target = const(np.float32(scale)), const(np.uint8(zero))
        return waist.quantize(emit(body(emit, *qs)), *target, **OUT)

    mod = build_module(arrays, whole)
    out = realize(mod, Recipe(requantize=flavour))
    assert operators(out) == expected
    want, got = (interpret(m, arrays)[0].astype(int) for m in (mod, out))
    assert np.abs(got - want).max() <= 1
    assert np.mean(got != want) <= ties or flavour != "float"


BINARY = {
    "add": (op.add, "tvmquant.add"),
    "subtract": (op.subtract, "tvmquant.add"),
    "multiply": (op.multiply, "tvmquant.multiply"),
}


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("name", BINARY)
def test_two_tensors(name, flavour):
    function, expected = BINARY[name]

    def body(emit, a, b):
        return function(real(emit, a, 0.03, 120), real(emit, b, 0.011, 40))

    check([expected], body, A, B, flavour=flavour)


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-9, 1e9), st.floats(1e-3, 1e3), st.integers(0, 255), st.integers(0, 255))
def test_sums_of_any_scales(a_scale, ratio, a_zero, b_zero):
    """No overflow, and no lost bits when one scale is far larger."""

    def body(emit, a, b):
        return op.add(real(emit, a, a_scale, a_zero), real(emit, b, a_scale * ratio, b_zero))

    scale = 2.0371 * a_scale * max(1, ratio)
    check(["tvmquant.add"], body, A, B, scale=scale, zero=100, ties=0.2)


def test_equal_scales_broadcasting_and_clips():
    def body(emit, a, b):
        total = emit(op.add(real(emit, a, 0.03, 9), real(emit, b, 0.03, 9)))
        return op.clip(total, 0, 6)

    check(["tvmquant.add"], body, A, RNG.integers(0, 256, (3,)).astype(np.uint8))


def test_a_tensor_with_itself():
    def body(emit, a):
        x = real(emit, a, 0.03, 120)
        return op.multiply(x, x)

    check(["tvmquant.multiply"], body, A)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_means_and_sums(flavour):
    for function in (op.mean, op.sum):
        for axis, keep in (([1, 2], True), ([3], False), (None, False)):
            check(
                ["tvmquant.mean"],
                lambda emit, a, f=function, x=axis, k=keep: f(real(emit, a, 0.03, 120), x, k),
                A,
                scale=0.0513 if function is op.mean else 2.03,
                flavour=flavour,
            )


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("include", [False, True])
def test_average_pools(include, flavour):
    """Every window has its own divisor at the border."""

    def body(emit, a):
        return op.nn.avg_pool2d(
            real(emit, a, 0.03, 120),
            [3, 2],
            [2, 2],
            [1, 1, 1, 0],
            ceil_mode=True,
            count_include_pad=include,
            layout="NHWC",
        )

    check(["tvmquant.avg_pool2d"], body, A, flavour=flavour)


def test_original_layout_stays_float():
    def body(emit, a):
        return op.nn.avg_pool2d(real(emit, a, 0.03, 120), [2, 2])

    check(["tvmquant.dequantize", "nn.avg_pool2d", "tvmquant.quantize"], body, A)


def test_tables():
    channels = const(RNG.standard_normal(3).astype(np.float32))

    def silu(emit, a):
        x = real(emit, a, 0.03, 120)
        return op.multiply(x, emit(op.sigmoid(x)))

    def affine(emit, a):
        return op.add(emit(op.multiply(real(emit, a, 0.03, 120), channels)), channels)

    for body in (silu, affine):
        check(["tvmquant.lut"], body, A)


def test_undefined_values_become_zero():
    """``log`` of the negative inputs that never occur must not poison the table."""
    check(["tvmquant.lut"], lambda emit, a: op.sqrt(real(emit, a, 0.03, 0)), A)
    mod = build_module(
        [A],
        lambda emit, a: waist.quantize(
            emit(op.log(real(emit, a, 0.03, 120))), const(np.float32(1)), const(np.uint8(9)), **OUT
        ),
    )
    got = interpret(realize(mod, Recipe()), [A])[0]
    assert np.all(got[A < 120] == 9)
    assert np.all(got[A == 120] == 0)


def test_fewer_bits():
    q = RNG.integers(0, 4, (2, 6)).astype(np.uint8)

    def body(emit, a):
        return op.tanh(real(emit, a, 0.5, 1, bits=2))

    check(["tvmquant.lut"], body, q, scale=0.01, zero=128)
