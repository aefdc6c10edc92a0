"""Chains of reshapes and permutations against NumPy."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmquant.passes.axis_maps import AxisMap


def replay(shape, steps):
    """The map of a chain, and what NumPy makes of it."""
    x = y = np.arange(np.prod(shape)).reshape(shape)
    axes = AxisMap(shape)
    for kind, argument in steps:
        if kind == "permute":
            axes.permute(argument)
            y = y.transpose(argument)
        else:
            if not axes.reshape(argument):
                return None, x, y.reshape(argument)
            y = y.reshape(argument)
    return axes, x, y


def assert_equal(axes, x, y):
    shape, order = axes.permutation()
    np.testing.assert_array_equal(x.reshape(shape).transpose(order).reshape(y.shape), y)


def test_a_pixel_shuffle_between_layouts_is_one_permutation_of_whole_pixels():
    steps = [
        ("permute", (0, 3, 1, 2)),
        ("reshape", (1, 2, 2, 8, 5, 6)),
        ("permute", (0, 3, 4, 1, 5, 2)),
        ("reshape", (1, 8, 10, 12)),
        ("permute", (0, 2, 3, 1)),
    ]
    axes, x, y = replay((1, 5, 6, 32), steps)
    assert axes.permutation() == ([5, 6, 2, 16], [0, 2, 1, 3])
    assert_equal(axes, x, y)


def test_what_has_no_common_divisor_is_left():
    axes, _, _ = replay((4, 6), [("permute", (1, 0)), ("reshape", (3, 8))])
    assert axes is not None  # 6 = 3·2: two parts of one axis
    axes, _, _ = replay((3, 5), [("permute", (1, 0)), ("reshape", (15,)), ("reshape", (3, 5))])
    assert axes is None


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_chain(data):
    factors = data.draw(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=5))
    shape, steps = tuple(factors), []
    for _ in range(data.draw(st.integers(1, 5))):
        if data.draw(st.booleans()):
            order = data.draw(st.permutations(range(len(shape))))
            steps.append(("permute", tuple(order)))
            shape = tuple(shape[axis] for axis in order)
        elif len(shape) > 1:
            at = data.draw(st.integers(0, len(shape) - 2))
            shape = (*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :])
            steps.append(("reshape", shape))
        else:
            cut = data.draw(st.sampled_from([d for d in (1, 2, 3) if shape[0] % d == 0]))
            shape = (cut, shape[0] // cut)
            steps.append(("reshape", shape))
    axes, x, y = replay(tuple(factors), steps)
    if axes is not None:
        assert_equal(axes, x, y)
