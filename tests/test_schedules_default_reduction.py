"""Sums, means, extrema, normalizations and pooling."""

import numpy as np
import pytest
from run_relax import check_case, const
from tvm import relax

from tvmquant.ops import make_call, waist
from tvmquant.schedules.default.analysis import largest_divisor

R = relax.op
rng = np.random.default_rng(0)
MAX_POOL = {
    "pool_size": [3, 3],
    "strides": [2, 2],
    "padding": [1, 1, 1, 1],
    "dilation": [1, 1],
    "ceil_mode": False,
}


def f32(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def u8(*shape):
    return rng.integers(0, 256, shape).astype(np.uint8)


def softmax(axis):
    return lambda _, x: R.nn.softmax(x, axis)


def dequantized_softmax(emit, x):
    node = waist.dequantize(x, const(np.float32(0.02)), const(np.uint8(128)), bits=8)
    return R.nn.softmax(emit(node), -1)


def pool(op):
    return lambda _, x: op(x, pool_size=3, strides=2, padding=1)


def layer_norm(_, x, gamma, beta):
    return R.nn.layer_norm(x, gamma, beta, axes=[-1])


def group_norm(_, x, gamma, beta):
    return R.nn.group_norm(x, gamma, beta, 4, 1, [2, 3])


CASES = {
    "softmax_rows": ([f32(6, 96)], softmax(-1), "reduction-outer"),
    "softmax_prime": ([f32(6, 97)], softmax(-1), "reduction-outer"),
    "softmax_channels": ([f32(1, 21, 8, 24)], softmax(1), "reduction-outer"),
    "softmax_bytes": ([u8(6, 96)], dequantized_softmax, "reduction-outer"),
    "log_softmax": ([f32(6, 96)], lambda _, x: R.nn.log_softmax(x, -1), "reduction-lanes"),
    "layer_norm": ([f32(9, 96), f32(96), f32(96)], layer_norm, "reduction-lanes"),
    "group_norm": ([f32(1, 24, 6, 8), f32(24), f32(24)], group_norm, "reduction-lanes"),
    "mean_nchw": ([f32(1, 48, 7, 7)], lambda _, x: R.mean(x, [2, 3], True), "reduction-lanes"),
    "mean_nhwc": ([f32(1, 7, 7, 48)], lambda _, x: R.mean(x, [1, 2], True), "reduction-outer"),
    "mean_odd": ([f32(1, 7, 7, 67)], lambda _, x: R.mean(x, [1, 2], True), "reduction-outer"),
    "mean_prime": ([f32(5, 97)], lambda _, x: R.mean(x, [1]), "reduction-inner"),
    "sum_everything": ([f32(5, 64)], lambda _, x: R.sum(x), "reduction-lanes"),
    "mean_everything": ([f32(5, 64)], lambda _, x: R.mean(x), "reduction-lanes"),
    "argmax": ([f32(1, 12, 9, 5)], lambda _, x: R.argmax(x, 1), "reduction"),
    "max_pool_bytes": (
        [u8(1, 21, 21, 48)],
        lambda _, x: make_call("tvmquant.max_pool2d", [x], **MAX_POOL),
        "reduction-outer",
    ),
    "max_pool_float": ([f32(1, 8, 20, 20)], pool(R.nn.max_pool2d), "window"),
    "avg_pool_float": ([f32(1, 8, 20, 20)], pool(R.nn.avg_pool2d), "window"),
}


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("name", CASES)
def test_reduction(name, threads):
    check_case(*CASES[name], threads)


@pytest.mark.parametrize(
    "value,limit,want", [(97, 64, 1), (96, 64, 48), (7, 64, 7), (1000, 32, 25)]
)
def test_largest_divisor(value, limit, want):
    assert largest_divisor(value, limit) == want
