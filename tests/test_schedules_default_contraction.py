"""Matmuls and convolutions in TE form: register tiles, streamed rows, dot products."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_relax import build_module, check_case, execute, lower, run, schedule
from tvm import relax

R = relax.op
NHWC = {"data_layout": "NHWC", "kernel_layout": "OHWI"}
rng = np.random.default_rng(0)


def f32(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def matmul(_, a, b):
    return R.matmul(a, b)


def transposed(emit, a, b):
    return R.matmul(a, emit(R.permute_dims(b)))


def dense_relu(emit, a, b, bias):
    return R.nn.relu(emit(R.add(emit(R.matmul(a, b)), bias)))


def conv(**attrs):
    return lambda _, x, w: R.nn.conv2d(x, w, **attrs)


def conv1d(_, x, w):
    return R.nn.conv1d(x, w, padding=1)


def upsample(_, x, w):
    return R.nn.conv2d_transpose(x, w, strides=2, padding=1)


TILED = {
    "square": ((48, 64), (64, 80), matmul),
    "short_last_tile": ((37, 29), (29, 64), matmul),
    "transposed": ((32, 64), (48, 64), transposed),
    "rows_as_vectors": ((16, 32), (32, 131), matmul),
    "batched": ((2, 3, 32, 24), (2, 1, 24, 32), matmul),
    "three_vectors": ((40, 16), (16, 96), matmul),
    "conv_nhwc": ((1, 9, 9, 16), (32, 3, 3, 16), conv(padding=1, **NHWC)),
    "conv_nchw": ((1, 16, 9, 9), (32, 16, 3, 3), conv(padding=1)),
    "conv_24_channels": ((1, 16, 9, 9), (24, 16, 3, 3), conv(padding=1)),
    "conv_stride": ((1, 3, 20, 20), (16, 3, 3, 3), conv(padding=1, strides=2)),
    "conv_dilated": ((1, 8, 12, 12), (16, 8, 3, 3), conv(padding=2, dilation=2)),
    "conv_grouped": ((1, 16, 10, 10), (32, 4, 3, 3), conv(padding=1, groups=4)),
    "conv1d": ((1, 16, 50), (32, 16, 3), conv1d),
    "conv_transpose": ((1, 16, 7, 7), (16, 24, 4, 4), upsample),
}
OTHERS = {
    "streamed_primes": ((67, 32), (32, 131), matmul, "contraction-streamed"),
    "streamed_odd": ((37, 29), (29, 51), matmul, "contraction-streamed"),
    "streamed_packed": ((1, 28, 28, 16), (21, 1, 1, 16), conv(**NHWC), "contraction-streamed"),
    "one_row": ((1, 96), (96, 160), matmul, "reduction-outer"),
    "one_output": ((1, 13, 13, 64), (1, 1, 1, 64), conv(**NHWC), "reduction-lanes"),
    "depthwise_nhwc": (
        (1, 9, 9, 32),
        (32, 3, 3, 1),
        conv(padding=1, groups=32, **NHWC),
        "reduction-outer",
    ),
    "depthwise_nchw": (
        (1, 32, 9, 9),
        (32, 1, 3, 3),
        conv(padding=1, groups=32),
        "reduction-outer",
    ),
    "depthwise_stride": (
        (1, 32, 19, 19),
        (32, 1, 3, 3),
        conv(padding=1, strides=2, groups=32),
        "window",
    ),
}


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("name", TILED)
def test_register_tiles(name, threads):
    a, b, body = TILED[name]
    check_case([f32(*a), f32(*b)], body, "contraction", threads)


@pytest.mark.parametrize("threads", [1, 4])
def test_bias_and_relu_stay_with_the_tile(threads):
    check_case([f32(32, 64), f32(64, 48), f32(48)], dense_relu, "contraction", threads)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("name", OTHERS)
def test_products_without_a_tile(name, threads):
    a, b, body, rule = OTHERS[name]
    check_case([f32(*a), f32(*b)], body, rule, threads)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(*[st.integers(1, 70)] * 3, st.booleans())
def test_matmul_of_any_shape(m, k, n, is_transposed):
    a, b = f32(m, k), f32(n, k) if is_transposed else f32(k, n)
    want = a @ (b.T if is_transposed else b)
    got = run([a, b], transposed if is_transposed else matmul)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 3, 5]),
    st.integers(0, 2),
    st.booleans(),
)
def test_conv2d_of_any_shape(c, o, stride, kernel, pad, channels_last):
    x, w = f32(1, 11, 13, c), f32(o, kernel, kernel, c)
    attrs = {"strides": stride, "padding": pad}
    if channels_last:
        attrs |= NHWC
    else:
        x, w = x.transpose(0, 3, 1, 2), w.transpose(0, 3, 1, 2)
    mod = build_module([x, w], conv(**attrs))
    got, want = execute(schedule(mod), [x, w]), execute(lower(mod), [x, w])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
