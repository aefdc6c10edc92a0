"""The NumPy meaning of the integer operators against naive loops, Python integers and ONNX."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmquant import reference
from tvmquant.reference.pooling import pool_geometry

RNG = np.random.default_rng(0)
INT32 = st.integers(-(2**31), 2**31 - 1)


def u8(*shape):
    return RNG.integers(0, 256, shape).astype(np.uint8)


def s8(*shape):
    return RNG.integers(-128, 128, shape).astype(np.int8)


# -- requantize ---------------------------------------------------------------------------------
@given(INT32, st.floats(1e-12, 100), st.integers(0, 255))
def test_fixed_point_is_exact_rounding(acc, multiplier, zero):
    params = reference.make_requantize_params(np.array([multiplier]), "fixed_point")
    m, shift = (int(p[0]) for p in params)
    assert m == 0 or 2**30 <= m < 2**31
    if m:
        assert m / 2**shift == pytest.approx(multiplier, rel=2**-30)
    (got,) = reference.requantize(np.array([acc], np.int32), params, "fixed_point", zero)
    assert got == min(max((acc * m + 2 ** (shift - 1)) // 2**shift + zero, 0), 255)


@given(INT32, st.integers(-8, 24), st.integers(0, 255))
def test_power_of_two_is_a_rounding_shift(acc, shift, zero):
    params = reference.make_requantize_params(np.array([2.0**-shift]), "power_of_two")
    assert int(params[0][0]) == shift
    (got,) = reference.requantize(np.array([acc], np.int32), params, "power_of_two", zero)
    real = acc * 2**-shift if shift <= 0 else (acc + 2 ** (shift - 1)) >> shift
    assert got == min(max(real + zero, 0), 255)


@given(INT32, st.floats(1e-12, 100), st.integers(0, 255), st.integers(0, 100))
def test_float_rounds_half_to_even_and_clamps(acc, multiplier, zero, low):
    params = reference.make_requantize_params(np.array([multiplier]), "float")
    (got,) = reference.requantize(np.array([acc], np.int32), params, "float", zero, low, 200)
    scaled = np.rint(np.float32(acc) * np.float32(multiplier))
    assert got == min(max(int(scaled) + zero, low), 200)


def test_flavours_agree_to_a_step():
    acc = RNG.integers(-30000, 30000, 1000).astype(np.int32)
    results = [
        reference.requantize(acc, reference.make_requantize_params(np.array([2**-8]), f), f, 128)
        for f in ("float", "fixed_point", "power_of_two")
    ]
    for a, b in itertools.combinations(results, 2):
        assert np.abs(a.astype(int) - b).max() <= 1


def test_other_outputs_and_mistakes():
    acc = np.array([-7, 9], np.int32)
    np.testing.assert_array_equal(reference.requantize(acc, (), "none"), acc)
    (scale,) = reference.make_requantize_params(np.array([0.1]), "dequantize")
    got = reference.requantize(acc, (scale,), "dequantize")
    np.testing.assert_array_equal(got, acc.astype(np.float32) * np.float32(0.1))
    with pytest.raises(TypeError, match="must be int32, got int64"):
        reference.requantize(acc.astype(np.int64), (scale,), "float")
    for call in (
        lambda: reference.make_requantize_params(np.array([1.0]), "exact"),
        lambda: reference.requantize(acc, (scale,), "exact"),
    ):
        with pytest.raises(ValueError, match="unknown requantize flavour 'exact'"):
            call()


@pytest.mark.parametrize("multiplier", [0.0, 1e-40, 1e-15, 1.0 - 2**-40, 2.0**15])
def test_extreme_multipliers_stay_finite(multiplier):
    for flavour in ("float", "fixed_point", "power_of_two"):
        params = reference.make_requantize_params(np.array([multiplier]), flavour)
        got = reference.requantize(np.array([2**29], np.int32), params, flavour, 3)
        assert got[0] == (255 if multiplier > 1e-6 else 3)


# -- linear -------------------------------------------------------------------------------------
@settings(max_examples=20, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(*[st.integers(1, 2)] * 4),
    st.tuples(*[st.integers(0, 2)] * 4),
    st.sampled_from([1, 2, 4]),
)
def test_conv2d_by_loops(kernel, steps, padding, groups):
    strides, dilation = steps[:2], steps[2:]
    x, w, bias = u8(2, 6, 7, 4), s8(4, *kernel, 4 // groups), np.arange(4, dtype=np.int32)
    got = reference.conv2d(
        x,
        w,
        bias,
        (),
        strides=strides,
        padding=padding,
        dilation=dilation,
        groups=groups,
        x_zero_point=5,
        requantize_flavour="none",
    )
    per = 4 // groups
    for n, i, j, o in np.ndindex(got.shape):
        total = int(bias[o])
        for a, b, c in np.ndindex(*kernel, per):
            row = i * strides[0] + a * dilation[0] - padding[0]
            col = j * strides[1] + b * dilation[1] - padding[1]
            inside = 0 <= row < 6 and 0 <= col < 7
            value = int(x[n, row, col, o // per * per + c]) if inside else 5
            total += value * int(w[o, a, b, c])
        assert got[n, i, j, o] == total


def test_accumulators_wrap_like_the_hardware():
    x, w = np.full((1, 1, 70000), 255, np.uint8), np.full((1, 70000), 127, np.int8)
    got = reference.matmul(x, w, np.zeros(1, np.int32), (), requantize_flavour="none")
    assert got[0, 0, 0] == (70000 * 255 * 127 + 2**31) % 2**32 - 2**31


def test_matmuls():
    x, w, bias = u8(2, 3, 5), s8(4, 5), RNG.integers(-99, 99, 4).astype(np.int32)
    got = reference.matmul(x, w, bias, (), requantize_flavour="none")
    np.testing.assert_array_equal(got, np.einsum("abk,ok->abo", x.astype(int), w) + bias)
    b = u8(2, 1, 5, 4)
    zeros = {"a_zero_point": 3, "b_zero_point": 250, "requantize_flavour": "none"}
    got = reference.batch_matmul(x, b, (), **zeros)
    np.testing.assert_array_equal(got, (x.astype(int) - 3) @ (b.astype(int) - 250))


# -- light operators ----------------------------------------------------------------------------
def test_lut_by_tensor_and_channel():
    x, table, tables = u8(2, 3, 4), u8(256), u8(3, 256)
    np.testing.assert_array_equal(reference.lut(x, table), np.vectorize(lambda v: table[v])(x))
    got = reference.lut(x, tables, axis=1)
    for index in np.ndindex(x.shape):
        assert got[index] == tables[index[1], x[index]]


def test_sums_and_products():
    a, b = u8(3, 4), u8(4)
    (half,) = reference.make_requantize_params(np.array([2.0**-10]), "float")
    got = reference.add(
        a,
        b,
        (half,),
        a_zero_point=7,
        b_zero_point=9,
        a_multiplier=300,
        b_multiplier=-500,
        out_zero_point=128,
    )
    real = ((a.astype(int) - 7) * 300 - (b.astype(int) - 9) * 500) / 1024
    np.testing.assert_array_equal(got, np.clip(np.rint(real) + 128, 0, 255))
    got = reference.multiply(a, b, (half,), a_zero_point=7, b_zero_point=9, out_max=20)
    real = (a.astype(int) - 7) * (b.astype(int) - 9) / 1024
    np.testing.assert_array_equal(got, np.clip(np.rint(real), 0, 20))


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 0, 0, 2)])
def test_pools_by_loops(padding, ceil_mode):
    x = u8(1, 6, 7, 2)
    window = {
        "pool_size": (3, 2),
        "strides": (2, 3),
        "padding": padding,
        "dilation": (1, 2),
        "ceil_mode": ceil_mode,
    }
    largest = reference.max_pool2d(x, **window)
    ones = (np.ones((*largest.shape[1:3], 1), np.float32) / 6,)
    average = reference.avg_pool2d(x, ones, **window, x_zero_point=40, out_zero_point=40)
    for _, i, j, c in np.ndindex(largest.shape):
        cells = [
            int(x[0, row, col, c])
            for row in i * 2 - padding[0] + np.arange(3)
            for col in j * 3 - padding[1] + np.arange(2) * 2
            if 0 <= row < 6 and 0 <= col < 7
        ]
        assert largest[0, i, j, c] == max(cells, default=0)
        want = np.rint(np.float32(sum(cells) - 40 * len(cells)) * ones[0][0, 0, 0])
        assert average[0, i, j, c] == np.clip(want + 40, 0, 255)


def test_last_window_starts_inside():
    assert pool_geometry(5, 2, 2, 0, 0, 1, ceil_mode=False) == 2
    assert pool_geometry(5, 2, 2, 0, 0, 1, ceil_mode=True) == 3
    assert pool_geometry(4, 2, 2, 1, 1, 1, ceil_mode=True) == 3
    assert pool_geometry(4, 1, 3, 0, 2, 1, ceil_mode=True) == 2


def test_mean():
    x = u8(2, 5, 3)
    (third,) = reference.make_requantize_params(np.array([1 / 15]), "float")
    got = reference.mean(x, (third,), axis=(1, 2), keepdims=True, x_zero_point=10)
    want = np.clip(np.rint(x.mean((1, 2), keepdims=True) - 10), 0, 255)
    assert np.abs(got.astype(int) - want).max() <= 1
    assert got.shape == (2, 1, 1)


# -- quantize -----------------------------------------------------------------------------------
def test_quantize_and_dequantize_round_trip():
    x = RNG.uniform(-1, 1, (4, 6, 5)).astype(np.float32)
    scale = RNG.uniform(0.01, 0.02, 6).astype(np.float32)
    zero = RNG.integers(100, 150, 6).astype(np.uint8)
    q = reference.quantize(x, scale, zero, qmin=0, qmax=255, dtype="uint8", axis=1)
    back = reference.dequantize(q, scale, zero, axis=1)
    assert np.all(np.abs(back - x) <= scale.reshape(1, 6, 1) * 0.501)
    whole = reference.quantize(x, np.float32(0.5), np.int8(0), qmin=-1, qmax=1, dtype="int8")
    assert set(np.unique(whole)) == {-1, 0, 1}


def test_blocks():
    x = RNG.standard_normal((3, 7)).astype(np.float32)
    scale = RNG.uniform(0.1, 1, (3, 3)).astype(np.float32)
    zero = np.zeros((3, 3), np.int8)
    rules = {"axis": 1, "block_size": 3}
    q = reference.quantize(x, scale, zero, qmin=-8, qmax=7, dtype="int8", **rules)
    wide = np.repeat(scale, 3, 1)[:, :7]
    np.testing.assert_array_equal(q, np.clip(np.rint(x / wide), -8, 7))
    np.testing.assert_array_equal(reference.dequantize(q, scale, zero, **rules), q * wide)


def test_infinities_saturate():
    x = np.array([np.inf, -np.inf, 1e30, -1e30], np.float32)
    q = reference.quantize(x, np.float32(1e-3), np.uint8(7), qmin=0, qmax=255, dtype="uint8")
    np.testing.assert_array_equal(q, [255, 0, 255, 0])


@pytest.mark.parametrize("bits", [4, 2, 1])
@pytest.mark.parametrize("count", [1, 7, 8, 9])
def test_packing_round_trip(bits, count):
    codes = RNG.integers(0, 2**bits, (3, count)).astype(np.uint8)
    packed = reference.pack_bits(codes, bits)
    assert packed.shape == (3, -(-count * bits // 8))
    np.testing.assert_array_equal(reference.unpack_bits(packed, bits, count), codes)
    assert int(packed[0, 0]) & (2**bits - 1) == codes[0, 0]
