"""Warnings of recipes that have nothing to act on."""

import dataclasses
import warnings

import numpy as np
import pytest
from networks import Net

import tvmquant
from tvmquant import LayerRule, Recipe
from tvmquant.errors import RecipeWarning
from tvmquant.frontend import load_model
from tvmquant.passes.coverage import layer_names
from tvmquant.passes.simplify import simplify


@pytest.fixture
def network():
    net = Net()
    y = net.op("Relu", net.conv(net.input(1, 3, 6, 6), 3, 4))
    return net.model(net.conv(y, 4, 2)), net.data(2)


def with_rules(bits, *rules):
    return dataclasses.replace(Recipe.for_bits(bits), layers=rules)


def told(network, **options):
    """What quantization warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tvmquant.quantize(network[0], calibration=network[1], **options)
    return [str(one.message) for one in caught if one.category is RecipeWarning]


def test_a_rule_that_matches_no_layer_is_named(network):
    first, *_ = layer_names(simplify(load_model(network[0]).mod))
    rules = (LayerRule(first, 8), LayerRule("cnov*", 8))
    (text,) = told(network, recipe=with_rules(4, *rules))
    assert "'cnov*' matches none" in text and f"'{first}'" in text


def test_rules_that_match_are_not_mentioned(network):
    assert told(network, recipe=with_rules(4, LayerRule("*", 8))) == []


@pytest.mark.parametrize("options", [{"bits": 8}, {"bits": 16}, {"recipe": "dynamic"}])
def test_recipes_that_quantize_something_are_silent(network, options):
    assert told(network, **options) == []


def test_weight_only_of_convolutions_says_that_nothing_is_quantized(network):
    (text,) = told(network, bits="w4a16")
    assert "nothing is quantized: w4a16" in text and "only convolutions" in text


def test_rules_that_leave_everything_in_float(network):
    (text,) = told(network, recipe=with_rules(8, LayerRule("*", quantize=False)))
    assert "rules of the recipe leave all layers in float" in text


def test_a_network_without_layers():
    net = Net()
    y = net.op("Relu", net.input(1, 3, 6, 6))
    (text,) = told((net.model(y), [np.ones((1, 3, 6, 6), np.float32)]), bits=8)
    assert "no convolution and no matrix product" in text
