"""Networks with some layers at 8 bits, in full and put together of parts."""

import fnmatch

import numpy as np
import pytest
from analysis_tools import data, network, recipe

import tvmquant
from tvmquant.analysis.candidates import Candidates, can_be_raised, with_raised
from tvmquant.analysis.correspondence import Correspondence
from tvmquant.analysis.goal import Goal
from tvmquant.graph import Graph, const_value
from tvmquant.interpreter import Interpreter
from tvmquant.passes.observations import Observations


def candidates(chosen):
    observations = Observations()
    options = {"calibration": data()}
    start = tvmquant.quantize(network(), recipe=chosen, observations=observations, **options)
    return Candidates(network(), start, observations, **options), start


def weights(model):
    parts = Correspondence(Graph(model.reference), Graph(model.mod))
    nodes = {layer.name: parts.quantized.value(layer.weight_var) for layer in parts.layers}
    return {name: const_value(node.args[0]) for name, node in nodes.items()}


@pytest.fixture(scope="module")
def corrected():
    return candidates(recipe("w4a4").with_corrections())


def test_in_full_is_what_the_recipe_makes(corrected):
    found, start = corrected
    model = found.in_full(["middle", "head"])
    alone = tvmquant.quantize(network(), calibration=data(), recipe=model.recipe)
    for name, q in weights(alone).items():
        np.testing.assert_array_equal(weights(model)[name], q)
    assert found.in_full([]) is start


def test_an_estimate_has_the_weights_of_the_networks_it_is_made_of(corrected):
    found, start = corrected
    top = found.in_full(found.names)
    model = found.estimate(["middle", "head"])
    low, high, mixed = weights(start), weights(top), weights(model)
    for name, q in mixed.items():
        np.testing.assert_array_equal(q, (high if name in ("middle", "head") else low)[name])
    assert model.recipe == found.in_full(["middle", "head"]).recipe
    # Not those that rounding to nearest gives.
    plain = tvmquant.quantize(network(), calibration=data(), recipe=recipe("w4a4"))
    assert not np.array_equal(weights(plain)["third"], mixed["third"])


def test_an_estimate_of_what_was_quantized_in_full_is_that(corrected):
    found, start = corrected
    goal = Goal(data(8, seed=5), start)
    for names in ([], found.names):
        model = found.in_full(names)
        assert goal.estimate(found.estimate(names)) == pytest.approx(goal.estimate(model), abs=0.01)
        assert goal.estimate(model) == pytest.approx(goal.value(model), abs=0.5)


def test_an_estimate_is_near_the_network_in_full(corrected):
    found, start = corrected
    goal = Goal(data(8, seed=5), start)
    found.in_full(found.names)
    names = ["middle", "third"]
    wanted = goal.value(found.in_full(names))
    assert goal.estimate(found.estimate(names)) == pytest.approx(wanted, abs=1.5)
    assert abs(goal.value(start) - wanted) > 3


def test_data_is_looked_at_twice_at_the_most(monkeypatch):
    runs = []
    run = Interpreter.run
    monkeypatch.setattr(
        Interpreter, "run", lambda self, *args: runs.append(args) or run(self, *args)
    )
    found, _ = candidates(recipe("w4a4").with_corrections())
    assert len(runs) == len(data())
    found.in_full(found.names)
    assert len(runs) == 2 * len(data())
    for names in (["middle"], ["first", "head"]):
        found.estimate(names)
    assert len(runs) == 2 * len(data())


@pytest.mark.parametrize("chosen", [recipe(), recipe(average_bits=3).with_corrections()])
def test_what_cannot_be_estimated_is_quantized_in_full(chosen):
    found, _ = candidates(chosen)
    assert not found.can_estimate
    (name, *_) = found.names
    made, full = found.estimate([name]), found.in_full([name])
    for layer, q in weights(full).items():
        np.testing.assert_array_equal(weights(made)[layer], q)


def test_names_are_no_patterns():
    name = "conv[0]*?"
    (rule,) = with_raised(recipe(), [name]).layers
    assert fnmatch.fnmatchcase(name, rule.pattern)
    assert not fnmatch.fnmatchcase("conv0xy", rule.pattern)


def test_float_activations_stay_float():
    weight_only = tvmquant.Recipe.for_bits("w4a16")
    (rule,) = with_raised(weight_only, ["head"]).layers
    assert (rule.weight_bits, rule.activation_bits) == (8, None)
    model = tvmquant.quantize(network(), "w4a16", calibration=data())
    assert can_be_raised(model) == ["head"]


def test_layers_of_8_bits_cannot_be_raised():
    rules = (tvmquant.LayerRule("third", 8), tvmquant.LayerRule("first", 8, 4))
    model = tvmquant.quantize(network(), calibration=data(), recipe=recipe(layers=rules))
    assert can_be_raised(model) == ["first", "middle", "head"]
