"""Dynamic quantization from the float graph to the compiled model."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from frontend_tools import make_model, node
from networks import Net

import tvmquant
from tvmquant.errors import RecipeError
from tvmquant.graph import Graph, const_value, name_of
from tvmquant.interpreter import Interpreter
from tvmquant.ops import is_op
from tvmquant.passes.dynamic import fits_int32
from tvmquant.passes.pipeline import to_integers
from tvmquant.quant_spec import LayerRule, QuantSpec
from tvmquant.quantizer import SyntheticCalibrationWarning
from tvmquant.recipe import Recipe
from tvmquant.recipes import find_recipe

RNG = np.random.default_rng(0)


def f32(*shape):
    return (RNG.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)


CONSTANTS = {"w1": f32(200, 96), "b1": f32(96), "w2": f32(96, 40), "w3": f32(96, 24)}

LAST = np.concatenate([CONSTANTS["w2"], CONSTANTS["w3"]], 1)


def branches(shape=(3, 200), between="Relu"):
    """Two layers that read one tensor, after a layer with a bias."""
    nodes = [
        node("MatMul", "x w1", "h", name="fc1"),
        node("Add", "h b1", "a", name="bias"),
        node(between, "a", "r", name="between"),
        node("MatMul", "r w2", "p", name="fc2"),
        node("MatMul", "r w3", "q", name="fc3"),
        node("Concat", "p q", "y", axis=-1),
    ]
    return make_model(nodes, {"x": np.zeros(shape, np.float32)}, CONSTANTS)


def convolutions(padding=1):
    net = Net()
    x = net.conv(net.input(2, 5, 9, 9), 5, 16, name="first", pads=[padding] * 4)
    x = net.op("Relu", x)
    x = net.conv(x, 16, 16, group=16, name="depthwise", pads=[1] * 4)
    return net.model(net.conv(net.op("Relu", x), 16, 8, kernel=1, name="last")), net


def quantized(model, bits=8, **changes):
    with warnings.catch_warnings():
        warnings.simplefilter("error", SyntheticCalibrationWarning)
        recipe = replace(find_recipe("dynamic", bits), **changes)
        return tvmquant.quantize(model, recipe=recipe)


def count(mod, *names):
    return sum(name_of(value) in names for _, value in Graph(mod).bindings)


def run_all(model, inputs):
    """The simulation, the integers in the interpreter and what was compiled."""
    integers = to_integers(model.mod, model.recipe)
    compiled = tvmquant.compile(model)
    feeds = {info.name: x for info, x in zip(model.inputs, inputs)}
    return (
        Interpreter(model.mod).run(inputs),
        Interpreter(integers).run(inputs),
        list(compiled.run(feeds).values()),
    )


@pytest.mark.parametrize(
    ("bits", "error"), [(8, 0.02), ("w4a8", 0.2), (2, 0.8), ("w4a4", 0.3), ("w8a4", 0.2)]
)
@pytest.mark.parametrize("shape", [(3, 200), (2, 3, 200)])
def test_matrix_products(bits, error, shape):
    model = quantized(branches(shape), bits)
    x = f32(*shape) * 10
    hidden = np.maximum(x @ CONSTANTS["w1"] + CONSTANTS["b1"], 0)
    simulated, integers, compiled = run_all(model, [x])
    true = hidden @ LAST
    assert np.linalg.norm(simulated[0] - true) < error * np.linalg.norm(true)
    np.testing.assert_allclose(integers[0], simulated[0], rtol=1e-3, atol=1e-3 * np.abs(true).max())
    np.testing.assert_array_equal(compiled[0], integers[0])


@pytest.mark.parametrize("padding", [0, 1])
def test_convolutions_and_their_padding(padding):
    model, net = convolutions(padding)
    made = quantized(model)
    (x,) = net.data(1)[0].values()
    x = x + np.float32(3)  # the zero point is far from zero
    simulated, integers, compiled = run_all(made, [x])
    np.testing.assert_allclose(integers[0], simulated[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(compiled[0], integers[0], rtol=1e-3, atol=1e-4)
    mod = to_integers(made.mod, made.recipe)
    assert count(mod, "tvmquant.dynamic_conv2d") == 2
    assert count(mod, "nn.conv2d") == 1  # the depthwise one


def test_layers_of_one_tensor_share_its_integers():
    mod = to_integers(*(lambda m: (m.mod, m.recipe))(quantized(branches())))
    assert count(mod, "tvmquant.dynamic_quantize") == 2
    assert count(mod, "tvmquant.matmul") == 3


def test_one_scale_a_tensor():
    spec = QuantSpec(estimator="dynamic")
    x = f32(3, 200)
    x[1] *= 100
    errors = {}
    want = np.maximum(x @ CONSTANTS["w1"] + CONSTANTS["b1"], 0) @ LAST
    for granularity in ("per_tensor", "per_row"):
        model = quantized(branches(), activations=replace(spec, granularity=granularity))
        _, integers, compiled = run_all(model, [x])
        np.testing.assert_array_equal(compiled[0], integers[0])
        errors[granularity] = np.abs(compiled[0] - want)[0].max()
    assert errors["per_row"] < errors["per_tensor"] / 5


@pytest.mark.parametrize("bad", [0.0, np.nan, 1e-42, 1e30])
def test_odd_inputs(bad):
    # The ReLU of this processor makes a zero of NaN.
    model = quantized(branches(between="Identity"))
    x = f32(3, 200)
    x[1] = bad
    _, integers, compiled = run_all(model, [x])
    np.testing.assert_array_equal(compiled[0], integers[0])
    rows = np.isnan(compiled[0]).any(1)
    np.testing.assert_array_equal(rows, [False, bool(np.isnan(bad)), False])


def test_tiny_activations_keep_the_bias():
    (y,) = run_all(quantized(branches()), [np.full((3, 200), 1e-30, np.float32)])[2]
    want = np.maximum(CONSTANTS["b1"], 0) @ LAST
    assert np.abs(y - want).max() < 0.02 * np.abs(want).max()


def test_first_and_last_layers_keep_their_bits():
    mod = to_integers(*(lambda m: (m.mod, m.recipe))(quantized(branches(), "w4a8")))
    layers = [v for _, v in Graph(mod).bindings if is_op(v, "tvmquant.matmul")]
    assert {int(v.attrs["w_bits"]) for v in layers} == {8}
    free = quantized(branches(), "w4a8", first_last_bits=None)
    mod = to_integers(free.mod, free.recipe)
    layers = [v for _, v in Graph(mod).bindings if is_op(v, "tvmquant.matmul")]
    assert {int(v.attrs["w_bits"]) for v in layers} == {4}
    assert all(np.abs(const_value(v.args[1])).max() <= 8 for v in layers)


def test_rules_of_layers():
    rules = (LayerRule("fc1", quantize=False), LayerRule("fc2", activation_bits=16))
    model = quantized(branches(), layers=rules)
    mod = to_integers(model.mod, model.recipe)
    assert count(mod, "matmul") == 1
    assert count(mod, "tvmquant.weight_only_matmul") == 1
    assert count(mod, "tvmquant.matmul") == 1
    with pytest.raises(RecipeError, match="layer fc1: dynamic quantization needs weights of 8, 4"):
        quantized(branches(), layers=(LayerRule("fc1", weight_bits=1),), first_last_bits=None)


def test_deep_layers_whose_sums_could_overflow_stay_float():
    assert fits_int32(np.full((2, 60000), 127, np.int8))
    assert not fits_int32(np.full((2, 70000), 127, np.int8))
    weight = np.sign(f32(70000, 2))
    model = make_model(
        [node("MatMul", "x w", name="fc")], {"x": np.zeros((1, 70000), np.float32)}, {"w": weight}
    )
    mod = quantized(model).mod
    assert count(mod, "tvmquant.dynamic_quantize") == 0


def test_the_precision_says_so():
    assert tvmquant.compile(quantized(branches())).precision == "w8a8-dynamic"
    assert find_recipe("dynamic", 4).precision == "w4a8-dynamic"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": QuantSpec(1, True)}, "dynamic quantization needs weights of 8, 4 or 2 bits"),
        ({"activations": QuantSpec(2, estimator="dynamic")}, "activations of 8 or 4, got w8a2"),
        ({"activations": QuantSpec(16, estimator="dynamic")}, "activations of 8 or 4, got w8a16"),
        ({"weights": QuantSpec(8, True, estimator="dynamic")}, "dynamic is for activations"),
        ({"weights": QuantSpec(8, True, "per_row")}, "weights.granularity must be per_channel"),
        ({"average_bits": 4}, "average_bits needs activations quantized by calibration"),
    ],
)
def test_recipes_that_cannot_be(changes, message):
    with pytest.raises(RecipeError, match=message):
        replace(find_recipe("dynamic"), **changes)


def test_rows_are_for_dynamic_activations_only():
    with pytest.raises(RecipeError, match="activations must be per_tensor"):
        Recipe(activations=QuantSpec(granularity="per_row"))
    with pytest.raises(RecipeError, match="dynamic quantization needs weights of 8, 4 or 2 bits"):
        find_recipe("dynamic", 1)
