"""Calibrations that share what they have seen."""

import numpy as np
import pytest
from networks import Net

import tvmquant
from tvmquant.edges import describe_edges
from tvmquant.interpreter import Interpreter
from tvmquant.passes.observations import Observations
from tvmquant.recipe import Recipe

DATA = np.random.default_rng(3).standard_normal((6, 1, 3, 6, 6)).astype(np.float32)


def model():
    """With a group (the pooling) and a residual, which layers of 4 bits read a copy of."""
    net = Net()
    y = net.op("Relu", net.conv(net.input(1, 3, 6, 6, name="x"), 3, 4, name="first"))
    z = net.op("MaxPool", y, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    z = net.op("Add", net.conv(z, 4, 4, name="middle"), y)
    return net.model(net.conv(z, 4, 5, 2, name="last"))


def rules(*names):
    return Recipe.for_bits("w4a4", layers=tuple(tvmquant.LayerRule(n, 8, 8) for n in names))


@pytest.fixture
def runs(monkeypatch):
    found = []
    run = Interpreter.run
    monkeypatch.setattr(
        Interpreter, "run", lambda self, *args: found.append(args) or run(self, *args)
    )
    return found


def test_ranges_are_those_of_a_calibration_of_its_own(runs):
    recipes = [rules(), rules("first", "middle", "last"), rules("middle"), rules("first", "last")]
    recipes.append(rules("last"))
    want = [describe_edges(quantized(recipe)) for recipe in recipes]
    assert len(runs) == len(DATA) * len(recipes)
    runs.clear()
    shared = Observations()
    found = [describe_edges(quantized(recipe, observations=shared)) for recipe in recipes]
    assert found == want
    assert len(runs) < len(DATA) * len(recipes)
    runs.clear()
    assert [describe_edges(quantized(recipe, observations=shared)) for recipe in recipes] == want
    assert not runs


def quantized(recipe, **options):
    return tvmquant.quantize(model(), calibration=list(DATA), recipe=recipe, **options).mod
