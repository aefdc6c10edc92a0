"""Values of the QDQ graph beside those of the float one."""

import numpy as np
import pytest
from analysis_tools import data, network, recipe
from networks import interpret

import tvmquant
from tvmquant.analysis.pairing import Pairing
from tvmquant.errors import InputError


@pytest.fixture(scope="module")
def quantized():
    corrected = recipe().with_corrections()
    return tvmquant.quantize(network(), calibration=data(), recipe=corrected)


def test_with_every_layer_alone_replaced_by_float_nothing_changes(quantized):
    """A layer whose quantized value is its float one leaves the float program as it is."""
    pairing = Pairing(quantized)
    env = pairing.float_values([data()[:1]])
    layer = pairing.parts.layers[1]
    pairing._own_value = lambda var, values: values[layer.reference] - layer.shift
    want = interpret(quantized.reference, [data()[:1]])[0]
    np.testing.assert_allclose(pairing.only(layer, env)[0], want, rtol=1e-5, atol=1e-6)


def test_alone_equals_a_recipe_that_leaves_the_others_in_float():
    rules = tuple(tvmquant.LayerRule(n, quantize=False) for n in ("first", "third", "head"))
    model, x = network(), data()
    alone = tvmquant.quantize(model, calibration=x, recipe=recipe(layers=rules))
    everything = Pairing(tvmquant.quantize(model, calibration=x, recipe=recipe()))
    (layer,) = (layer for layer in everything.parts.layers if layer.name == "middle")
    got = everything.only(layer, everything.float_values([x[:1]]))[0]
    np.testing.assert_allclose(got, interpret(alone.mod, [x[:1]])[0], rtol=1e-5, atol=1e-6)


def test_a_model_that_came_quantized_has_no_float_program(quantized):
    foreign = tvmquant.quantize(quantized.mod)
    assert foreign.reference is None
    with pytest.raises(InputError, match="quantized by others"):
        Pairing(foreign)
