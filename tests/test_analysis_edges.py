"""Statistics of quantized activations."""

import numpy as np
import pytest
from analysis_tools import recipe
from networks import Net

from tvmquant.analysis import sensitivity
from tvmquant.analysis.edges import coarse_counts
from tvmquant.calibration.histogram import Histogram


def test_coarse_counts_keep_every_value():
    histogram = Histogram()
    x = np.random.default_rng(0).gamma(2, size=5000).astype(np.float32)
    histogram.update(x)
    counts = coarse_counts(histogram, 16)
    assert counts.sum() == x.size
    want, _ = np.histogram(x, 16, (x.min(), x.max()))
    # The histogram's own bins lie across the borders.
    np.testing.assert_allclose(counts, want, atol=0.01 * x.size)


@pytest.mark.parametrize("values", [[], [2.0, 2.0]])
def test_histograms_without_a_width(values):
    histogram = Histogram()
    histogram.update(np.array(values, np.float32))
    assert coarse_counts(histogram, 4).tolist() == [len(values), 0, 0, 0]


def test_clipping_is_counted():
    net = Net(seed=1)
    model = net.model(net.conv(net.input(1, 2, 8, 8), 2, 3))
    small = [{"x0": 0.1 * feeds["x0"]} for feeds in net.data(4)]
    report = sensitivity(model, calibration=small, recipe=recipe(8))
    assert report.edges[0].clipped < 0.01
    few = sensitivity(model, calibration=small, recipe=recipe("w8a2"))
    # Least squares at two bits cut the tails of a normal distribution off.
    assert 0.01 < few.edges[0].clipped < 0.5
    assert few.edges[0].sqnr_db < report.edges[0].sqnr_db - 15


def test_a_copy_at_fewer_bits_is_an_edge_of_its_own():
    net = Net(seed=1)
    x = net.op("Relu", net.conv(net.input(1, 4, 6, 6), 4, 4, name="one"))
    y = net.conv(x, 4, 4, name="two")
    model = net.model(net.conv(net.op("Add", x, y), 4, 2, name="three"))
    report = sensitivity(model, calibration=net.data(4), recipe=recipe(4))
    copies = [edge for edge in report.edges if edge.name.endswith("/q4")]
    (edge,) = copies
    assert edge.bits == 4 and edge.readers == ("two",)
    whole = report.edge(edge.name.removesuffix("/q4"))
    assert whole.bits == 8 and whole.sqnr_db > edge.sqnr_db + 10
    assert whole.seen_high == edge.seen_high


def test_what_a_flat_function_ignores_is_no_noise():
    net = Net(seed=1)
    y = net.op("HardSwish", net.conv(net.input(1, 4, 6, 6), 4, 4, name="one"))
    model = net.model(net.conv(y, 4, 2, name="two"))
    wide = [{"x0": 12 * feeds["x0"]} for feeds in net.data(6)]
    report = sensitivity(model, calibration=wide, recipe=recipe(8))
    (edge,) = (edge for edge in report.edges if edge.seen_low < -6 and edge.low > -4)
    assert edge.clipped < 0.01
    assert edge.sqnr_db > 35
