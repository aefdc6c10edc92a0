"""What the tests of the lowered operators share: strategies, integers, attributes."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from tvmquant import reference as ref

few = settings(max_examples=12, deadline=None, derandomize=True)
flavours = st.sampled_from(ref.FLAVOURS)
seeds = st.integers(0, 2**32 - 1)
channels = st.sampled_from([1, 3, 16, 24, 61, 64, 70])
zero_points = st.integers(0, 255)


def codes(rng, *shape, high=256):
    return rng.integers(0, high, shape).astype(np.uint8)


def out_attrs(flavour, zero_point, qmax=255):
    return {
        "requantize": flavour,
        "out_zero_point": zero_point,
        "out_min": 0,
        "out_max": qmax,
        "name": "layer",
    }


def reference_attrs(attrs):
    kept = {k: v for k, v in attrs.items() if k not in ("name", "requantize")}
    return {**kept, "requantize_flavour": attrs["requantize"]}


def assert_same(got, want):
    assert got.dtype == want.dtype and got.shape == want.shape
    np.testing.assert_array_equal(got, want)
