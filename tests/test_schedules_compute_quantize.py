"""Lowered quantize and dequantize of every granularity equal their NumPy reference bit for bit."""

import numpy as np
from compute_tools import assert_same, few, seeds
from hypothesis import given
from hypothesis import strategies as st
from run_relax import const, run

from tvmquant import reference as ref
from tvmquant.ops import waist

RANGES = {"int8": (-128, 127), "uint8": (0, 15), "int16": (-32768, 32767), "uint16": (0, 65535)}


def grouping(rng, kind, shape):
    """Scales, zero-point shape and attributes of a granularity."""
    axis = 1
    if kind == "scalar":
        return (), {"axis": 0, "block_size": 0}
    if kind == "axis":
        return (shape[axis],), {"axis": axis, "block_size": 0}
    blocked = list(shape)
    blocked[axis] = -(-shape[axis] // 4)
    return tuple(blocked), {"axis": axis, "block_size": 4}


@few
@given(seeds, st.sampled_from(sorted(RANGES)), st.sampled_from(["scalar", "axis", "blocked"]))
def test_quantize(seed, dtype, kind):
    rng = np.random.default_rng(seed)
    qmin, qmax = RANGES[dtype]
    x = rng.normal(0, 4, (2, 10, 33)).astype(np.float32)
    x.flat[:2] = np.inf, -np.inf
    shape, group = grouping(rng, kind, x.shape)
    scale = np.asarray(rng.uniform(0.01, 1, shape), np.float32)
    x[1, 0] = np.round(x[1, 0] * 2) / 2 * scale.flat[0]  # ties
    zero = rng.integers(max(qmin, -100), min(qmax, 200), shape).astype(dtype)
    want = ref.quantize(x, scale, zero, qmin=qmin, qmax=qmax, dtype=dtype, **group)
    got = run(
        [x],
        lambda _, v: waist.quantize(
            v, const(scale), const(zero), bits=8, qmin=qmin, qmax=qmax, dtype=dtype, **group
        ),
    )
    assert_same(got, want)


@few
@given(
    seeds,
    st.sampled_from([*sorted(RANGES), "int32"]),
    st.sampled_from(["scalar", "axis", "blocked"]),
)
def test_dequantize(seed, dtype, kind):
    rng = np.random.default_rng(seed)
    low, high = RANGES.get(dtype, (-(2**28), 2**28))
    q = rng.integers(low, high + 1, (2, 10, 33)).astype(dtype)
    shape, group = grouping(rng, kind, q.shape)
    scale = np.asarray(rng.uniform(0.01, 1, shape), np.float32)
    zero = rng.integers(max(low, -100), min(high, 100) + 1, shape).astype(dtype)
    got = run([q], lambda _, v: waist.dequantize(v, const(scale), const(zero), bits=8, **group))
    assert_same(got, ref.dequantize(q, scale, zero, **group))


def test_quantize_with_run_time_parameters():
    rng = np.random.default_rng(3)
    x = rng.normal(0, 4, (4, 40)).astype(np.float32)
    _, scale, zero = ref.dynamic_quantize(x)
    got = run(
        [x, np.asarray(scale), np.asarray(zero)],
        lambda _, v, s, z: waist.quantize(v, s, z, bits=8, qmin=0, qmax=255, dtype="uint8"),
    )
    assert_same(got, ref.quantize(x, scale, zero, qmin=0, qmax=255, dtype="uint8"))
