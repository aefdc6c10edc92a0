"""Ranges of channels."""

import numpy as np
import pytest

from tvmquant.analysis.channels import ChannelRanges, WeightRanges, spread


def test_dead_and_constant_channels_are_counted():
    ranges = ChannelRanges()
    rng = np.random.default_rng(0)
    for _ in range(3):
        x = rng.standard_normal((1, 4, 4, 5)).astype(np.float32)
        x[..., 1] = 0
        x[..., 3] = 2.5
        ranges.update(x)
    assert (ranges.channels, ranges.dead, ranges.constant) == (5, 1, 1)
    x[..., 1] = 1
    ranges.update(x)
    assert ranges.dead == 0


def test_one_sample_tells_nothing_of_constants():
    ranges = ChannelRanges()
    ranges.update(np.zeros((1, 3), np.float32))
    assert (ranges.dead, ranges.constant) == (0, 0)


def test_broken_samples_are_counted_and_left_out():
    ranges = ChannelRanges()
    ranges.update(np.array([[1.0, 2.0]]))
    ranges.update(np.array([[np.nan, np.inf]]))
    assert (ranges.samples, ranges.broken_samples) == (2, 1)
    assert ranges.high.tolist() == [1, 2]


def test_spread_compares_with_the_usual_channel():
    assert spread(np.array([-1.0, 0, -40]), np.array([2.0, 2, 1])) == 20
    assert spread(np.zeros(3), np.zeros(3)) == 1
    # Dead channels do not make the others look wide.
    assert spread(np.zeros(4), np.array([0, 0, 0, 3.0])) == 1


@pytest.mark.parametrize("axis", [0, 1])
def test_weight_ranges_are_those_of_the_output_channels(axis):
    weight = np.array([[1.0, -3], [2, 4], [0, 8]])
    ranges = WeightRanges.of(weight, weight / 2, axis)
    assert ranges.low.tolist() == weight.min(1 - axis).tolist()
    assert ranges.high.tolist() == weight.max(1 - axis).tolist()
    assert ranges.limits.tolist() == (np.abs(weight).max(1 - axis) / 2).tolist()
