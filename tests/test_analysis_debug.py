"""A compiled model against its float original."""

import numpy as np
import pytest
from analysis_tools import PLANTED, data, network, recipe

import tvmquant
from tvmquant.analysis import sensitivity
from tvmquant.errors import InputError


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    compiled = tvmquant.compile(network(), calibration=data(), recipe=recipe())
    return tvmquant.load(compiled.save(tmp_path_factory.mktemp("debug") / "model"))


def test_the_report_is_that_of_the_executed_integers(loaded):
    report = loaded.debug(network(), data(), samples=3)
    assert report.executed
    assert report.layers[0].name == PLANTED
    assert (
        report.layers
        == sensitivity(network(), calibration=data(), recipe=recipe(), samples=3).layers
    )


def test_other_data_may_be_compared_on(loaded):
    report = loaded.debug(network(), data(2, seed=8), calibration=data())
    assert report.samples == 2
    found = [loaded(sample[None]) for sample in data(2, seed=8)]
    model = tvmquant.quantize(network(), calibration=data(), recipe=recipe())
    again = tvmquant.compile(model).debug(model, data(2, seed=8))
    assert again.layers == report.layers
    assert all(np.isfinite(output).all() for output in found)


def test_other_calibration_data_is_noticed(loaded):
    with pytest.raises(InputError, match="quantized in another way"):
        loaded.debug(network(), data(8, seed=8))


def test_another_model_is_noticed(loaded):
    with pytest.raises(InputError, match="quantized in another way"):
        loaded.debug(network(60.0), data())


def test_other_weights_of_the_same_ranges_are_noticed():
    model = tvmquant.quantize(network(), calibration=data(), recipe=recipe())
    compiled = tvmquant.compile(model)
    other = tvmquant.quantize(
        network(), calibration=data(), recipe=recipe(bias_correction="empirical")
    )
    with pytest.raises(InputError, match="outputs of the compiled model"):
        compiled.debug(other, data())
