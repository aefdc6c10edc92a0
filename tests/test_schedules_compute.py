"""Every lowered integer operator equals its NumPy reference bit for bit."""

import numpy as np
import pytest
from compute_tools import (
    assert_same,
    channels,
    codes,
    few,
    flavours,
    out_attrs,
    reference_attrs,
    seeds,
    zero_points,
)
from hypothesis import given
from hypothesis import strategies as st
from run_relax import const, run
from tvm import relax, te

from tvmquant import reference as ref
from tvmquant.ops import make_call
from tvmquant.schedules.compute import OutputSpec, requantize_te


@few
@given(seeds, flavours, zero_points, st.sampled_from([255, 15, 3]), channels, st.booleans())
def test_add(seed, flavour, zero_point, qmax, c, broadcast):
    rng = np.random.default_rng(seed)
    a, b = codes(rng, 1, 3, 5, c), codes(rng, *((1, 1, 1, c) if broadcast else (1, 3, 5, c)))
    params = ref.make_requantize_params(np.array([rng.uniform(1e-5, 1e-3)]), flavour)
    scales = {
        "a_zero_point": int(rng.integers(256)),
        "b_zero_point": int(rng.integers(256)),
        "a_multiplier": int(rng.integers(-(2**22), 2**22)),
        "b_multiplier": int(rng.integers(-(2**12), 2**12)),
    }
    attrs = {**scales, **out_attrs(flavour, min(zero_point, qmax), qmax)}
    got = run(
        [a, b], lambda _, x, y: make_call("tvmquant.add", [x, y, *map(const, params)], **attrs)
    )
    assert_same(got, ref.add(a, b, params, **reference_attrs(attrs)))


@few
@given(seeds, flavours, zero_points, channels)
def test_multiply_by_a_channel_gate(seed, flavour, zero_point, c):
    rng = np.random.default_rng(seed)
    a, b = codes(rng, 1, 4, 3, c), codes(rng, 1, 1, 1, c)
    params = ref.make_requantize_params(np.array([rng.uniform(1e-4, 1e-1)]), flavour)
    attrs = {"a_zero_point": 7, "b_zero_point": 131, **out_attrs(flavour, zero_point)}
    got = run(
        [a, b], lambda _, x, y: make_call("tvmquant.multiply", [x, y, *map(const, params)], **attrs)
    )
    assert_same(got, ref.multiply(a, b, params, **reference_attrs(attrs)))


@pytest.mark.parametrize("flavour", ["float", "fixed_point", "power_of_two", "dequantize"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_requantize_extremes(flavour, per_channel):
    """Accumulators at the ends of int32 and multipliers from tiny to large."""
    rng = np.random.default_rng(5)
    edges = np.array([-(2**31), 2**31 - 1, -(2**31) + 1, 0, 1, -1, 2**14, -(2**14), 2**24 + 1])
    acc = rng.integers(-(2**31), 2**31, (200, 16))
    acc[:9] = edges[:, None]
    acc[9:100] >>= rng.integers(8, 31, (91, 16))
    acc = acc.astype(np.int32)
    multiplier = np.exp2(rng.uniform(-31, 17, 16)) if per_channel else np.array([2.0**-9 * 1.37])
    params = ref.make_requantize_params(multiplier, flavour)
    spec = OutputSpec(flavour, 11, 0, 200)

    def body(emit, x, *rest):
        def define(a, *p):
            return te.compute(a.shape, lambda *i: requantize_te(a(*i), p, spec, i), name="out")

        return relax.BlockBuilder.current().call_te(define, x, *rest)

    got = run([acc, *params], body)
    want = ref.requantize(acc, params, flavour, 11, 0, 200)
    assert_same(got, want)
    assert len(np.unique(got)) > 10


@few
@given(seeds, st.sampled_from([None, 3, 1, -1]), st.sampled_from([np.uint8, np.float32]), channels)
def test_lut(seed, axis, dtype, c):
    rng = np.random.default_rng(seed)
    x = codes(rng, 2, 5, 3, c)
    rows = () if axis is None else (x.shape[axis],)
    table = rng.integers(0, 256, (*rows, 256)).astype(dtype)
    attrs = {"axis": -1 if axis is None else axis}
    got = run([x], lambda _, v: make_call("tvmquant.lut", [v, const(table)], **attrs))
    assert_same(got, ref.lut(x, table, attrs["axis"]))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_flip_sign(dtype):
    x = np.arange(256).astype(np.uint8).view(dtype).reshape(4, 64)
    got = run([x], lambda _, v: make_call("tvmquant.flip_sign", [v]))
    want = (x.astype(np.int32) + (-128 if dtype is np.uint8 else 128)).astype(
        np.int8 if dtype is np.uint8 else np.uint8
    )
    assert_same(got, want)


@st.composite
def windows(draw):
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilation = draw(st.sampled_from([(1, 1), (2, 1)]))
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
    padding = [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
    return {
        "pool_size": list(kernel),
        "strides": list(draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))),
        "padding": padding,
        "dilation": list(dilation),
        "ceil_mode": draw(st.booleans()),
    }, [draw(st.integers(s, 9)) for s in span]


@few
@given(seeds, windows(), channels)
def test_max_pool2d(seed, window, c):
    attrs, size = window
    x = codes(np.random.default_rng(seed), 2, *size, c)
    got = run([x], lambda _, v: make_call("tvmquant.max_pool2d", [v], **attrs))
    assert_same(got, ref.max_pool2d(x, **attrs))


@few
@given(seeds, windows(), channels, flavours, zero_points)
def test_avg_pool2d(seed, window, c, flavour, zero_point):
    attrs, size = window
    rng = np.random.default_rng(seed)
    x = codes(rng, 1, *size, c)
    oh, ow = ref.max_pool2d(x, **attrs).shape[1:3]
    params = ref.make_requantize_params(rng.uniform(0.02, 0.5, (oh, ow, 1)), flavour)
    attrs = {**attrs, "x_zero_point": zero_point, **out_attrs(flavour, 17)}
    got = run([x], lambda _, v: make_call("tvmquant.avg_pool2d", [v, *map(const, params)], **attrs))
    assert_same(got, ref.avg_pool2d(x, params, **reference_attrs(attrs)))


def test_avg_pool2d_large_window_leaves_16_bits():
    x = np.full((1, 20, 20, 16), 255, np.uint8)
    window = {
        "pool_size": [20, 20],
        "strides": [1, 1],
        "padding": [0] * 4,
        "dilation": [1, 1],
        "ceil_mode": False,
    }
    attrs = {**window, "x_zero_point": 0, **out_attrs("none", 0)}
    got = run([x], lambda _, v: make_call("tvmquant.avg_pool2d", [v], **attrs))
    assert_same(got, np.full((1, 1, 1, 16), 400 * 255, np.int32))


@few
@given(
    seeds,
    st.sampled_from([[1, 2], [3], [-1], [0, 1, 2, 3], [1]]),
    st.booleans(),
    channels,
    flavours,
    zero_points,
)
def test_mean(seed, axis, keepdims, c, flavour, zero_point):
    rng = np.random.default_rng(seed)
    x = codes(rng, 2, 7, 6, c)
    params = ref.make_requantize_params(np.array([rng.uniform(0.001, 0.1)]), flavour)
    attrs = {
        "axis": axis,
        "keepdims": keepdims,
        "x_zero_point": zero_point,
        **out_attrs(flavour, 5),
    }
    got = run([x], lambda _, v: make_call("tvmquant.mean", [v, *map(const, params)], **attrs))
    assert_same(got, np.asarray(ref.mean(x, params, **reference_attrs(attrs))))


@few
@given(
    seeds,
    st.sampled_from([((2, 3), (2, 3)), ((3,), ()), ((1, 2), (2, 1)), ((), ())]),
    st.tuples(*[st.sampled_from([1, 5, 16, 37, 64])] * 3),
    flavours,
    zero_points,
    zero_points,
)
def test_batch_matmul(seed, batch, mkn, flavour, za, zb):
    rng = np.random.default_rng(seed)
    m, k, n = mkn
    a, b = codes(rng, *batch[0], m, k), codes(rng, *batch[1], k, n)
    params = ref.make_requantize_params(np.array([rng.uniform(1e-4, 1e-2)]), flavour)
    attrs = {"a_zero_point": za, "b_zero_point": zb, **out_attrs(flavour, 100)}
    got = run(
        [a, b],
        lambda _, x, y: make_call("tvmquant.batch_matmul", [x, y, *map(const, params)], **attrs),
    )
    assert_same(got, ref.batch_matmul(a, b, params, **reference_attrs(attrs)))
