"""Every rule gives its canonical operators and the same float numbers."""

from __future__ import annotations

import numpy as np
import pytest
from networks import assert_same_floats, operators
from run_relax import build_module, const
from tvm import relax

from tvmquant.passes.canonicalize import canonicalize

RNG = np.random.default_rng(0)
op = relax.op


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def check(x, body, expected):
    """``body(emit, x)`` canonicalized has exactly these operators."""
    mod = build_module([x], body)
    out = canonicalize(mod)
    assert operators(out) == expected
    assert_same_floats(mod, out, [x])


IMAGE, SEQUENCE, MATRIX = floats(2, 6, 5, 7), floats(2, 6, 9), floats(3, 4)


@pytest.mark.parametrize("axis", [1, 3])
@pytest.mark.parametrize("center, scale", [(True, True), (False, True), (True, False)])
def test_batch_norm_is_affine(axis, center, scale):
    x = IMAGE if axis == 1 else IMAGE.transpose(0, 2, 3, 1).copy()
    params = [const(floats(6)) for _ in range(3)] + [const(np.abs(floats(6)) + 0.1)]

    def body(emit, x):
        y = emit(
            op.nn.batch_norm(
                x, *params, axis=axis, epsilon=0.01, center=center, scale=scale, training=False
            )
        )
        return relax.TupleGetItem(y, 0)

    check(x, body, ["multiply", "add"])


NUMBER, ROW = const(np.float32(1.5)), const(floats(4))
ARITHMETIC = {
    "x - c": (lambda emit, x: op.subtract(x, ROW), ["add"]),
    "c - x": (lambda emit, x: op.subtract(ROW, x), ["multiply", "add"]),
    "x / c": (lambda emit, x: op.divide(x, ROW), ["multiply"]),
    "c / x": (lambda emit, x: op.divide(NUMBER, x), ["divide"]),
    "x / 0": (lambda emit, x: op.divide(x, const(np.float32(0))), ["divide"]),
    "c + x": (lambda emit, x: op.add(ROW, x), ["add"]),
    "c * x": (lambda emit, x: op.multiply(ROW, x), ["multiply"]),
    "max(c, x)": (lambda emit, x: op.maximum(NUMBER, x), ["clip"]),
    "max(x, 0)": (lambda emit, x: op.maximum(x, const(np.float32(0))), ["nn.relu"]),
    "min(x, c)": (lambda emit, x: op.minimum(x, NUMBER), ["clip"]),
    "max(x, row)": (lambda emit, x: op.maximum(x, ROW), ["maximum"]),
    "min(x, [[[c]]])": (
        lambda emit, x: op.minimum(x, const(np.full((1, 1, 1), 0.5, np.float32))),
        ["clip", "reshape"],
    ),
    "dropout": (lambda emit, x: relax.TupleGetItem(emit(op.nn.dropout(x)), 0), []),
    "split in one": (lambda emit, x: op.split(x, 1, 1), []),
}


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic(name):
    body, expected = ARITHMETIC[name]
    check(np.abs(MATRIX) + 0.1, body, expected)


@pytest.mark.parametrize(
    "attrs",
    [
        {"strides": 1, "padding": [1, 1]},
        {"strides": 2, "padding": [0, 3]},
        {"strides": 1, "padding": [2, 0], "dilation": 2, "groups": 2},
        {"groups": 6},
    ],
)
def test_conv1d(attrs):
    weight = const(floats(12, 6 // attrs.get("groups", 1), 3))
    check(
        SEQUENCE,
        lambda emit, x: op.nn.conv1d(x, weight, **attrs),
        ["expand_dims", "nn.conv2d", "squeeze"],
    )


@pytest.mark.parametrize(
    "attrs",
    [
        {"strides": 2, "padding": [1, 1], "output_padding": 1},
        {"strides": 3, "padding": [0, 2], "dilation": 2, "groups": 2},
    ],
)
def test_conv1d_transpose(attrs):
    weight = const(floats(6, 4, 3))
    check(
        SEQUENCE,
        lambda emit, x: op.nn.conv1d_transpose(x, weight, **attrs),
        ["expand_dims", "nn.conv2d_transpose", "squeeze"],
    )


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("ceil_mode, count_include_pad", [(False, False), (True, True)])
def test_pool1d(kind, ceil_mode, count_include_pad):
    pool = getattr(op.nn, f"{kind}_pool1d")

    def body(emit, x):
        return pool(x, 3, 2, [1, 1], 1, ceil_mode, count_include_pad)

    check(SEQUENCE, body, ["expand_dims", f"nn.{kind}_pool2d", "squeeze"])


def test_global_pools_are_means():
    check(IMAGE, lambda emit, x: op.nn.adaptive_avg_pool2d(x, (1, 1)), ["mean"])
    check(SEQUENCE, lambda emit, x: op.nn.adaptive_avg_pool1d(x, 1), ["mean"])
    check(IMAGE, lambda emit, x: op.nn.avg_pool2d(x, (5, 7)), ["mean"])
    last = IMAGE.transpose(0, 2, 3, 1).copy()
    check(last, lambda emit, x: op.nn.adaptive_avg_pool2d(x, (1, 1), "NHWC"), ["mean"])


def test_other_pools_stay():
    check(IMAGE, lambda emit, x: op.nn.adaptive_avg_pool2d(x, (5, 1)), ["nn.adaptive_avg_pool2d"])
    check(IMAGE, lambda emit, x: op.nn.avg_pool2d(x, (5, 6)), ["nn.avg_pool2d"])
    padded = {"pool_size": (5, 7), "padding": [1, 1, 1, 1]}
    check(IMAGE, lambda emit, x: op.nn.avg_pool2d(x, **padded), ["nn.avg_pool2d"])


def test_vectors_are_matrices():
    vector = floats(4)
    weight, row = const(floats(4, 5)), const(floats(4))
    check(vector, lambda emit, x: op.matmul(x, weight), ["expand_dims", "matmul", "reshape"])
    check(MATRIX, lambda emit, x: op.matmul(x, row), ["matmul", "reshape"])
    check(vector, lambda emit, x: op.matmul(x, row), ["expand_dims", "matmul", "reshape"])
    check(MATRIX, lambda emit, x: op.matmul(x, weight), ["matmul"])
