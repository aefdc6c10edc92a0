"""The meaning of dynamic quantization."""

import numpy as np
import pytest

from tvmquant import reference

LARGEST = np.finfo(np.float32).max


def f32(*values):
    return np.array(values, np.float32)


def test_the_formulas_of_onnx():
    q, scale, zero = reference.dynamic_quantize(f32(-1, 2, 0, 0.5))
    assert (scale, zero) == (np.float32(3) / np.float32(255), 85)
    assert (scale.shape, zero.shape, q.dtype) == ((), (), np.uint8)
    np.testing.assert_array_equal(q, [0, 255, 85, 127])  # 42.5 is rounded to the even 42
    assert reference.dynamic_quantize(f32(5))[2] == 0
    assert reference.dynamic_quantize(f32(-5))[2] == 255


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_values_come_back_within_half_a_step(bits, per_row, symmetric):
    x = np.random.default_rng(0).normal(1, 3, (4, 5, 60)).astype(np.float32)
    q, scale, zero = reference.dynamic_quantize(x, bits=bits, per_row=per_row, symmetric=symmetric)
    assert scale.shape == zero.shape == ((4, 5, 1) if per_row else ())
    assert q.max() == 2**bits - 1 or q.min() == symmetric
    back = (q.astype(np.float32) - zero) * scale
    # The range's ends may lie half a step beyond the integers' when the zero point is rounded.
    assert np.abs(back - x).max() <= 1.01 * scale.max()
    assert np.median(np.abs(back - x)) <= 0.5 * scale.max()
    if symmetric:
        assert (zero == 2 ** (bits - 1)).all()


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-40])
def test_nothing_has_a_usable_scale(value):
    q, scale, zero = reference.dynamic_quantize(np.full((2, 8), value, np.float32))
    assert (scale, zero) == (1, 0)
    assert not q.any()
    assert reference.dynamic_quantize(np.zeros((0, 3), np.float32))[1] == 1


def test_huge_values_have_a_finite_scale():
    x = f32(-LARGEST, LARGEST)
    for symmetric in (False, True):
        _, scale, _ = reference.dynamic_quantize(x, symmetric=symmetric)
        assert np.isfinite(scale) and scale > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_value_spoils_its_row_only(bad):
    x = np.ones((3, 20), np.float32)
    x[1, 7] = bad
    q, scale, zero = reference.dynamic_quantize(x, per_row=True)
    np.testing.assert_array_equal(np.isnan(scale[:, 0]), [False, True, False])
    assert zero[1, 0] == 0 and not q[1].any() and q[0].all()
    assert np.isnan(reference.dynamic_quantize(x)[1])


def test_a_layer_is_right_within_the_steps():
    rng = np.random.default_rng(1)
    x = rng.normal(0.5, 1, (6, 200)).astype(np.float32)
    w = rng.integers(-127, 128, (9, 200)).astype(np.int8)
    w_scale = rng.uniform(0.001, 0.01, 9).astype(np.float32)
    bias = rng.normal(0, 1, 9).astype(np.float32)
    q, scale, zero = reference.dynamic_quantize(x, per_row=True)
    acc = reference.matmul(q, w, np.zeros(9, np.int32), (), requantize_flavour="none")
    sums = w.astype(np.int32).sum(1)
    y = reference.dynamic_rescale(acc, zero, sums, scale, w_scale, bias)
    real = w * w_scale.astype(np.float64)[:, None]
    want = x @ real.T + bias
    assert (np.abs(y - want) <= scale * np.abs(real).sum(1)).all()
    exact = ((q.astype(np.float64) - zero) * scale) @ real.T + bias
    np.testing.assert_allclose(y, exact, rtol=1e-5, atol=1e-5)


def test_the_correction_is_exact_modulo_two_to_the_32():
    acc = np.array([[2**31 - 1, -(2**31)]], np.int32)
    got = reference.dynamic_rescale(acc, np.uint8(255), np.array([-10, 10], np.int32))
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, [[2549 - 2**31, 2**31 - 2550]])
