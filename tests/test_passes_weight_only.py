"""Weight-only layers from the float graph to the compiled model."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from frontend_tools import make_model, node
from hypothesis import given, settings
from hypothesis import strategies as st

import tvmquant
from tvmquant.graph import Graph, const_value
from tvmquant.interpreter import Interpreter
from tvmquant.ops import is_op
from tvmquant.passes import weight_only
from tvmquant.passes.pipeline import to_integers
from tvmquant.quant_spec import LayerRule, QuantSpec
from tvmquant.quantizer import SyntheticCalibrationWarning
from tvmquant.recipe import Recipe
from tvmquant.recipes import find_recipe

DEPTH, HIDDEN, OUTPUTS = 200, 96, 40
RNG = np.random.default_rng(0)


def f32(*shape):
    return (RNG.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)


CONSTANTS = {"w1": f32(DEPTH, HIDDEN), "b1": f32(HIDDEN), "w2": f32(HIDDEN, OUTPUTS)}


def two_layers(shape=(3, DEPTH)):
    nodes = [
        node("MatMul", "x w1", "h", name="fc1"),
        node("Add", "h b1", "a", name="bias"),
        node("Relu", "a", "r", name="relu"),
        node("MatMul", "r w2", "y", name="fc2"),
    ]
    return make_model(nodes, {"x": np.zeros(shape, np.float32)}, CONSTANTS)


def products(mod):
    found = Graph(mod).bindings
    return [value for _, value in found if is_op(value, "tvmquant.weight_only_matmul")]


def quantized(bits, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", SyntheticCalibrationWarning)
        return tvmquant.quantize(two_layers(), bits, **options)


def realized(model):
    return to_integers(model.mod, model.recipe)


@pytest.mark.parametrize(("bits", "error"), [("w8a16", 0.02), ("w4a16", 0.2), ("w2a32", 0.8)])
def test_no_calibration_data_is_needed(bits, error):
    model = quantized(bits)
    x = f32(3, DEPTH) * 10
    want = np.maximum(x @ CONSTANTS["w1"] + CONSTANTS["b1"], 0) @ CONSTANTS["w2"]
    (simulated,) = Interpreter(model.mod).run([x])
    assert np.linalg.norm(simulated - want) < error * np.linalg.norm(want)
    integers = realized(model)
    assert len(products(integers)) == 2
    (made,) = Interpreter(integers).run([x])
    np.testing.assert_allclose(made, simulated, rtol=1e-4, atol=1e-4)


@settings(max_examples=8, deadline=None)
@given(
    bits=st.sampled_from([8, 4, 2]),
    group_size=st.sampled_from([None, 8, 32, 48, 128, 500]),
    shape=st.sampled_from([(1, DEPTH), (3, DEPTH), (2, 3, DEPTH)]),
)
def test_the_compiled_model_equals_the_interpreter(bits, group_size, shape):
    recipe = Recipe.for_bits(f"w{bits}a32", group_size=group_size)
    model = tvmquant.quantize(two_layers(shape), recipe=recipe)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    (want,) = Interpreter(realized(model)).run([x])
    made = tvmquant.compile(model).run({"x": x})["y"]
    np.testing.assert_allclose(made, want, rtol=2e-5, atol=2e-5)


def test_groups_and_bias_are_where_they_belong():
    first, second = products(realized(quantized("w4a16")))
    w, scale, bias = map(const_value, first.args[1:])
    assert w.shape == (HIDDEN, DEPTH)
    assert w.min() >= -8 and w.max() <= 7
    assert scale.shape == (HIDDEN, -(-DEPTH // 32))
    np.testing.assert_array_equal(bias, CONSTANTS["b1"])
    np.testing.assert_array_equal(const_value(second.args[3]), np.zeros(OUTPUTS))
    assert int(first.attrs["group_size"]) == 32
    whole = products(realized(quantized("w4a16", recipe=Recipe.for_bits("w4a16", group_size=None))))
    assert const_value(whole[0].args[2]).shape == (HIDDEN, 1)


@pytest.mark.parametrize("group_size", [None, 16])
def test_weights_quantized_in_pieces_are_the_same(group_size, monkeypatch):
    recipe = Recipe.for_bits("w4a16", group_size=group_size)
    monkeypatch.setattr(weight_only, "_PIECE", 1)
    pieces = products(realized(quantized("w4a16", recipe=recipe)))
    monkeypatch.setattr(weight_only, "_PIECE", 1 << 30)
    whole = products(realized(quantized("w4a16", recipe=recipe)))
    for one, other in zip(pieces, whole, strict=True):
        for index in (1, 2):
            a, b = const_value(one.args[index]), const_value(other.args[index])
            np.testing.assert_array_equal(a, b)


def test_one_scale_for_the_whole_weight():
    spec = QuantSpec(4, symmetric=True, granularity="per_tensor", estimator="mse")
    recipe = replace(Recipe.for_bits("w4a16"), weights=spec, group_size=None)
    first, _ = products(realized(quantized("w4a16", recipe=recipe)))
    assert len(np.unique(const_value(first.args[2]))) == 1


def test_one_layer_of_an_integer_network():
    rules = (LayerRule("fc2", weight_bits=4, activation_bits=16),)
    data = [{"x": f32(3, DEPTH) * 10} for _ in range(4)]
    model = tvmquant.quantize(
        two_layers(), recipe=Recipe(layers=rules, first_last_bits=None), calibration=data
    )
    mod = realized(model)
    assert len(products(mod)) == 1
    assert any(is_op(value, "tvmquant.matmul") for _, value in Graph(mod).bindings)


def test_layers_left_in_float_stay_float():
    rules = (LayerRule("fc1", quantize=False),)
    model = quantized("w4a16", recipe=Recipe.for_bits("w4a16", layers=rules))
    assert [str(call.attrs["name"]) for call in products(realized(model))] == ["fc2"]


def test_convolutions_stay_float():
    constants = {"w": f32(4, 3, 3, 3)}
    graph = make_model(
        [node("Conv", "x w", name="conv1")], {"x": np.zeros((1, 3, 8, 8), np.float32)}, constants
    )
    model = tvmquant.quantize(graph, "w4a16")
    x = f32(1, 3, 8, 8)
    np.testing.assert_allclose(
        tvmquant.compile(model).run({"x": x})["y"],
        Interpreter(model.mod).run([x])[0],
        rtol=1e-4,
        atol=1e-5,
    )
    assert not any(is_op(v, "tvmquant.dequantize") for _, v in Graph(model.mod).bindings)


def test_four_bits_are_an_eighth_of_the_file(tmp_path):
    weight = f32(1024, 1024)
    graph = make_model(
        [node("MatMul", "x w", name="fc")], {"x": np.zeros((1, 1024), np.float32)}, {"w": weight}
    )
    recipe = Recipe.for_bits("w4a16", group_size=128)
    model = tvmquant.compile(graph, recipe=recipe)
    (layer,) = (layer for layer in model.manifest.layers if layer.macs)
    assert layer.weight_bytes < weight.nbytes / 7
    model.save(tmp_path / "m")
    size = sum(path.stat().st_size for path in (tmp_path / "m").rglob("*") if path.is_file())
    assert size < weight.nbytes / 6


def correlated(count, seed=1):
    """Samples whose inputs go together, as those of real networks do."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(7).standard_normal((DEPTH, DEPTH)) * np.linspace(0.1, 2, DEPTH)
    return [{"x": (rng.standard_normal((3, DEPTH)) @ mix).astype(np.float32)} for _ in range(count)]


def lost(model, feeds):
    error = energy = 0.0
    for feed in feeds:
        want = np.maximum(feed["x"] @ CONSTANTS["w1"] + CONSTANTS["b1"], 0) @ CONSTANTS["w2"]
        (made,) = Interpreter(model.mod).run([feed["x"]])
        error, energy = error + np.sum((made - want) ** 2), energy + np.sum(want**2)
    return error / energy


@pytest.mark.parametrize("group_size", [None, 32, 48])
@pytest.mark.parametrize("bits", ["w4a16", "w2a16"])
def test_data_makes_the_weights_round_by_their_effect(bits, group_size):
    unseen = correlated(8, seed=5)
    plain = Recipe.for_bits(bits, group_size=group_size)
    before = tvmquant.quantize(two_layers(), recipe=plain)
    after = tvmquant.quantize(
        two_layers(), recipe=plain.with_corrections(), calibration=correlated(48)
    )
    assert lost(after, unseen) < 0.8 * lost(before, unseen)
    for old, new in zip(products(realized(before)), products(realized(after)), strict=True):
        assert const_value(new.args[2]).shape == const_value(old.args[2]).shape
        half = 2 ** (int(new.attrs["bits"]) - 1)
        w = const_value(new.args[1])
        assert -half <= w.min() and w.max() < half
    x = unseen[0]["x"]
    (want,) = Interpreter(realized(after)).run([x])
    np.testing.assert_allclose(tvmquant.compile(after)(x), want, rtol=2e-5, atol=1e-4)


def test_rounding_by_effect_is_the_default_with_data_and_waits_for_it():
    named = find_recipe("weight_only", "w4a16")
    assert named.rounding == "gptq" and find_recipe("weight_only", "w8a16").rounding == "nearest"

    def weights(model):
        return const_value(products(realized(model))[0].args[1])

    plain = weights(tvmquant.quantize(two_layers(), recipe=Recipe.for_bits("w4a16")))
    np.testing.assert_array_equal(weights(quantized("w4a16", recipe=named)), plain)
    assert np.any(weights(quantized("w4a16", calibration=correlated(8))) != plain)
