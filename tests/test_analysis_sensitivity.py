"""Reports on whole networks."""

import json

import numpy as np
import pytest
from analysis_tools import PLANTED, data, network, recipe
from networks import interpret

import tvmquant
from tvmquant.analysis import sensitivity
from tvmquant.analysis.decibel import OutputNoise
from tvmquant.errors import CalibrationError, InputError
from tvmquant.passes.pipeline import to_integers


@pytest.fixture(scope="module")
def report():
    return sensitivity(network(), calibration=data(), recipe=recipe(), samples=4)


def test_the_planted_layer_is_worst(report):
    worst, *others = report.layers
    assert worst.name == PLANTED
    assert worst.output_db < min(layer.output_db for layer in others) - 10
    assert worst.share > 0.8
    assert sum(layer.share for layer in report.layers) == pytest.approx(1)
    assert worst.executed_db < report.layer("first").executed_db - 5


def test_layers_are_described(report):
    head, first = report.layer("head"), report.layer("first")
    assert (head.operator, head.bits, head.macs) == ("matmul", "w4a8", 40)
    assert (first.operator, first.macs) == ("conv2d", 36 * 6 * 27)
    assert len(first.weight_low) == len(first.weight_limits) == 6
    assert first.inputs == (report.edges[0].name,)
    assert report.edges[0].readers == ("first",)
    with pytest.raises(KeyError):
        report.layer("fourth")


def test_weights_of_more_bits_have_less_noise(report):
    finer = sensitivity(network(), calibration=data(), recipe=recipe("w8a8"), samples=4)
    for layer in finer.layers:
        assert layer.weight_db > report.layer(layer.name).weight_db + 15
    assert finer.output_db > report.output_db + 10


def test_edges_are_measured(report):
    x = data()[:4]
    edge = report.edges[0]
    assert (edge.seen_low, edge.seen_high) == (x.min(), x.max())
    assert sum(edge.counts) == x.size
    q = np.clip(np.rint(x / np.float32(edge.scale)) + edge.zero_point, 0, 255)
    error = (q - edge.zero_point) * np.float32(edge.scale) - x
    assert edge.sqnr_db == pytest.approx(10 * np.log10((x**2).sum() / (error**2).sum()), abs=1e-3)
    # Nothing comes before the input: what is executed is what is rounded.
    assert edge.executed_db == pytest.approx(edge.sqnr_db, abs=1e-3)
    outside = np.rint(x / np.float32(edge.scale)) + edge.zero_point
    assert edge.clipped == pytest.approx(np.mean((outside < 0) | (outside > 255)), abs=1e-6)


def test_the_output_is_that_of_the_integers(report):
    model = tvmquant.quantize(network(), calibration=data(), recipe=recipe())
    integers, noise = to_integers(model.mod, model.recipe), OutputNoise()
    for sample in data()[:4]:
        noise.update(
            interpret(model.reference, [sample[None]]), interpret(integers, [sample[None]])
        )
    assert report.output_db == pytest.approx(noise.db, abs=1e-6)


def test_data_may_be_a_stream(report):
    stream = (sample[None] for sample in data())
    streamed = sensitivity(network(), calibration=stream, recipe=recipe(), samples=4)
    assert streamed == report


def test_a_quantized_model_is_not_quantized_again(report):
    model = tvmquant.quantize(network(), calibration=data(), recipe=recipe())
    again = sensitivity(model, calibration=iter(data()), samples=4)
    assert [la.output_db for la in again.layers] == [la.output_db for la in report.layers]


def test_weight_only_layers_are_measured():
    report = sensitivity(network(), "w4a16", calibration=data(), samples=2)
    (layer,) = report.layers
    assert (layer.name, layer.bits, layer.inputs) == ("head", "w4", ())
    assert 5 < layer.output_db == pytest.approx(report.output_db, abs=0.1)


def test_bad_requests():
    with pytest.raises(CalibrationError, match="nothing to measure on"):
        sensitivity(network(), calibration=None)
    with pytest.raises(CalibrationError, match="at least 1"):
        sensitivity(network(), calibration=data(), samples=0)
    rules = (tvmquant.LayerRule("*", quantize=False),)
    with pytest.raises(InputError, match="no layer of it is quantized"):
        sensitivity(network(), calibration=data(), recipe=recipe(layers=rules))


def test_plain_data_and_table(report):
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["layers"][0]["name"] == PLANTED
    assert len(plain["edges"]) == len(report.edges)
    table = report.table()
    assert table.row_count == 4
    assert next(iter(table.columns[0].cells)) == PLANTED


@pytest.mark.parametrize(
    ("name", "bits", "least"), [("dynamic", "w8a8", 35), ("float16", "w16", None)]
)
def test_ranges_of_run_time_and_half_weights_are_measured(name, bits, least):
    report = sensitivity(network(), calibration=data(), recipe=name, samples=2)
    assert {layer.bits for layer in report.layers} == {bits}
    for layer in report.layers:
        assert layer.weight_db > 35
        assert layer.clipped is None
        assert (layer.activation_db or 0) >= (least or 0)
    assert all(edge.scale is None and edge.sqnr_db > 35 for edge in report.edges)


def test_channels_of_different_widths_have_a_mean():
    report = sensitivity(network(), calibration=data(), recipe=recipe(average_bits=3.5), samples=2)
    assert 2 < report.layer("third").weight_bits <= 3.5
