"""What a report says about odd layers."""

from dataclasses import replace

import numpy as np
import pytest
from analysis_tools import data, network, recipe
from networks import Net

from tvmquant.analysis import sensitivity
from tvmquant.analysis.channels import ChannelRanges, WeightRanges
from tvmquant.analysis.hints import hints_of
from tvmquant.analysis.report import EdgeSensitivity
from tvmquant.recipe import Recipe

EDGE = EdgeSensitivity(
    *("x", 8, 0.1, 0, 0.0, 25.5, 0.0, 25.0, 0.0, 45.0, 45.0), counts=(10,) * 96, readers=()
)


def ranges(*samples):
    made = ChannelRanges()
    for sample in samples:
        made.update(np.asarray(sample, np.float32))
    return made


PLAIN = ranges([[1, 2]], [[2, 1]])


def text(recipe=None, weights=None, results=PLAIN, edge=EDGE, channels=PLAIN):
    return "; ".join(hints_of(recipe or Recipe(), weights, results, [(edge, channels)]))


def test_nothing_is_said_of_a_sound_layer():
    assert text() == ""


def test_results():
    found = text(results=ranges([[0, 1, 3]], [[0, 1, 4]], [[0, 1, np.nan]]))
    assert "NaN or infinity in 1 of 3 samples" in found
    assert "1 of 3 channels are always 0" in found
    assert "1 of 3 channels never vary" in found


def test_uneven_weights_matter_where_they_share_a_scale():
    weights = WeightRanges(-np.ones(3), np.array([1.0, 1, 50]), np.ones(3))
    assert text(weights=weights) == ""
    one_scale = replace(Recipe(), weights=replace(Recipe().weights, granularity="per_tensor"))
    assert "50 times wider" in text(one_scale, weights)
    assert "per_channel" in text(one_scale, weights)


def test_inputs():
    assert "12.0% of x lie outside" in text(edge=replace(EDGE, clipped=0.12))
    poor = replace(EDGE, sqnr_db=20.0)
    wide = ranges([[1, 1, 90]], [[1, 1, 80]])
    assert "try equalize" in text(edge=poor, channels=wide)
    assert "try equalize" not in text(replace(Recipe(), equalize=True), edge=poor, channels=wide)
    assert text(edge=EDGE, channels=wide) == ""


def test_outliers_widen_a_range():
    counts = (99999, *(0,) * 94, 1)
    edge = replace(EDGE, sqnr_db=20.0, counts=counts)
    assert "times wider than 99.9 % of its values" in text(edge=edge)
    assert text(edge=replace(edge, sqnr_db=40.0)) == ""


@pytest.mark.parametrize("dead", [0, 2])
def test_a_network_with_dead_channels(dead):
    net = Net(seed=2)
    y = net.conv(net.input(1, 3, 5, 5), 3, 6, name="one")
    net.constants["c0"][:dead] = 0
    net.constants["c1"][:] = 0.3
    net.constants["c1"][:dead] = -1
    model = net.model(net.conv(net.op("Relu", y), 6, 4, name="two"))
    report = sensitivity(model, calibration=net.data(4), recipe=recipe(8))
    found = "; ".join(report.layer("one").hints)
    assert found == (f"{dead} of 6 channels are always 0" if dead else "")


def test_the_report_lists_the_worst_first():
    spec = replace(recipe().weights, granularity="per_tensor")
    report = sensitivity(network(), calibration=data(), recipe=replace(recipe(), weights=spec))
    assert (
        report.hints(1)
        == [f"{layer.name}: {'; '.join(layer.hints)}" for layer in report.layers if layer.hints][:1]
    )
