"""The recipe ``float16`` from the float graph to the compiled model."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from frontend_tools import make_model, node
from networks import Net

import tvmquant
from tvmquant.errors import RecipeError
from tvmquant.graph import Graph, name_of
from tvmquant.interpreter import Interpreter
from tvmquant.passes.half import HalfPrecisionWarning
from tvmquant.passes.pipeline import to_integers
from tvmquant.quant_spec import LayerRule
from tvmquant.recipe import Recipe
from tvmquant.recipes import find_recipe

RNG = np.random.default_rng(0)


def network():
    net = Net()
    x = net.conv(net.input(1, 5, 9, 9), 5, 16, name="first")
    x = net.conv(net.op("Relu", x), 16, 16, group=16, name="depthwise")
    x = net.op("Flatten", net.conv(net.op("Relu", x), 16, 8, 1, name="point"))
    return net.model(net.dense(x, 8 * 81, 10, name="fc")), net.data(1)[0]


def quantized(model, **changes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return tvmquant.quantize(model, recipe=replace(find_recipe("float16"), **changes))


def count(mod, name):
    return sum(name_of(value) == name for _, value in Graph(mod).bindings)


@pytest.mark.parametrize("expand", [True, False])
def test_all_layers(expand):
    graph, feeds = network()
    model = quantized(graph, expand_weights=expand)
    compiled = tvmquant.compile(model)
    layers = [layer for layer in compiled.manifest.layers if layer.macs]
    assert [(la.weight_bits, la.activation_bits) for la in layers] == [(16, 32)] * 4
    assert compiled.precision == "w16a16"
    (want,) = Interpreter(model.mod).run(list(feeds.values()))
    (got,) = compiled.run(feeds).values()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    rules = Recipe(layers=(LayerRule("*", quantize=False),))
    plain = tvmquant.compile(graph, recipe=rules, calibration=[feeds])
    (true,) = plain.run(feeds).values()
    np.testing.assert_allclose(got, true, atol=2e-3 * np.abs(true).max())
    assert np.any(got != true)
    weights = sum(la.weight_bytes for la in plain.manifest.layers if la.macs)
    assert sum(la.weight_bytes for la in layers) < 0.55 * weights


def test_tables_of_embeddings():
    table = RNG.standard_normal((50, 32)).astype(np.float32)
    nodes = [
        node("Gather", "table x", "e", name="embed"),
        node("MatMul", "e w", "y", name="fc"),
    ]
    constants = {"table": table, "w": RNG.standard_normal((32, 8)).astype(np.float32)}
    x = np.array([[3, 49, 0]])
    model = quantized(make_model(nodes, {"x": x}, constants))
    mod = to_integers(model.mod, model.recipe)
    assert count(mod, "tvmquant.half_to_float") == 2
    (want,) = Interpreter(mod).run([x])
    half = [a.astype(np.float16).astype(np.float32) for a in constants.values()]
    np.testing.assert_allclose(want, half[0][x] @ half[1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(tvmquant.compile(model).run({"x": x})["y"], want, rtol=1e-4)


def test_weights_beyond_float16_stay_float32():
    weight = RNG.standard_normal((16, 8)).astype(np.float32)
    weight[3, 4] = 1e5
    graph = make_model(
        [node("MatMul", "x w", name="fc")], {"x": np.zeros((1, 16), np.float32)}, {"w": weight}
    )
    with pytest.warns(HalfPrecisionWarning, match="layer fc: its weights go up to 100000"):
        model = tvmquant.quantize(graph, recipe="float16")
    assert count(model.mod, "tvmquant.half_to_float") == 0
    assert tvmquant.compile(model).precision == "float32"


def test_rules_of_layers():
    graph, _ = network()
    rules = (LayerRule("point", weight_bits=8), LayerRule("fc", weight_bits=8))
    model = quantized(graph, layers=rules)
    mod = to_integers(model.mod, model.recipe)
    assert count(mod, "tvmquant.half_to_float") == 2
    assert count(mod, "tvmquant.weight_only_matmul") == 1


def test_names_of_the_precision():
    for name in (16, "16", "w16a16"):
        assert Recipe.for_bits(name).precision == "w16a16"
    assert Recipe.for_bits("w16a32").bits_for("layer").half
    assert Recipe.from_json(find_recipe("float16").to_json()) == find_recipe("float16")


def test_recipes_that_cannot_be():
    with pytest.raises(RecipeError, match="weights of 16 bits are float16: activations need 16"):
        Recipe.from_json('{"weights": {"bits": 16}}')
    with pytest.raises(RecipeError, match="layer a: weights of 16 bits are float16"):
        Recipe(layers=(LayerRule("a", weight_bits=16),)).bits_for("a")
    with pytest.raises(RecipeError, match="float16 stores 16 bits a weight: give no --bits 8"):
        find_recipe("float16", 8)
