"""The front door: what can be given to ``compile`` and ``quantize``, and what comes back."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import tvm
from networks import Net, build, cosine, float_operators, operators, realized, run_onnx
from tvm import relax

import tvmquant
from tvmquant.errors import InputError, ModelError, RecipeError, TargetError
from tvmquant.quant_spec import LayerRule
from tvmquant.quantizer import SyntheticCalibrationWarning
from tvmquant.recipe import Recipe

IMAGE = (1, 3, 8, 8)


def classifier():
    net = Net()
    y = net.op("Relu", net.conv(net.input(*IMAGE, name="image"), 3, 8, name="first"))
    y = net.op("Relu", net.conv(y, 8, 8, name="middle"))
    return net, net.dense(net.op("Flatten", net.op("GlobalAveragePool", y)), 8, 5, name="last")


@pytest.fixture(scope="module")
def plain():
    net, y = classifier()
    return net.model(y), net.data(3)


# -- kinds of models ----------------------------------------------------------------------------
def test_path_and_proto_give_the_same_module(plain, tmp_path):
    model, data = plain
    onnx.save(model, tmp_path / "net.onnx")
    from_path = tvmquant.compile(str(tmp_path / "net.onnx"), calibration=data)
    from_proto = tvmquant.compile(model, calibration=data)
    assert from_path.manifest.source == "net.onnx"
    assert [i.name for i in from_path.inputs] == ["image"]
    for feeds in data:
        np.testing.assert_array_equal(from_path(feeds["image"]), from_proto(feeds["image"]))


def test_relax_module():
    x = relax.Var("x", relax.TensorType([2, 6], "float32"))
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 4)).astype(np.float32)
    bb = relax.BlockBuilder()
    with bb.function("main", [x]):
        with bb.dataflow():
            y = bb.emit(relax.op.nn.relu(bb.emit(relax.op.matmul(x, relax.const(weight)))))
            z = bb.emit_output(relax.op.add(y, relax.const(np.float32(1))))
        bb.emit_func_output(z)
    data = rng.standard_normal((2, 6)).astype(np.float32)
    compiled = tvmquant.compile(bb.get(), calibration=[{"x": data}])
    assert compiled.precision == "w8a8"
    assert cosine(compiled(data), np.maximum(data @ weight, 0) + 1) > 0.999


def test_torch_module():
    torch = pytest.importorskip("torch")
    layers = [torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU()]
    module = torch.nn.Sequential(*layers, torch.nn.Conv2d(8, 4, 3)).eval()
    x = torch.randn(IMAGE, generator=torch.Generator().manual_seed(0))
    compiled = tvmquant.compile(module, calibration=[x.numpy()], example_inputs=x)
    with torch.no_grad():
        assert cosine(compiled(x.numpy()), module(x).numpy()) > 0.99


def test_quantized_model_is_compiled_as_it_is(plain):
    model, data = plain
    quantized = tvmquant.quantize(model, 4, calibration=data)
    assert "tvmquant.quantize" in operators(quantized.mod)
    assert tvmquant.compile(quantized).precision == "w4a4"


def test_twice_is_the_same(plain):
    model, data = plain
    first, second = (realized(model, data, 4).integers for _ in range(2))
    tvm.ir.assert_structural_equal(first, second)


# -- inputs and outputs -------------------------------------------------------------------------
def outputs_of(make, bits=8, **options):
    net = Net()
    model, data = net.model(*make(net)), net.data(3)
    built = build(model, data, bits, **options)
    built.assert_exact(data)
    built.assert_close(model, data, 0.99)
    return built


def test_several_inputs_and_outputs():
    def make(net):
        a, b = net.input(*IMAGE), net.input(*IMAGE)
        y = net.op("Relu", net.op("Add", net.conv(a, 3, 8), net.conv(b, 3, 8)))
        return [net.conv(y, 8, 4), y, net.conv(b, 3, 2)]

    built = outputs_of(make)
    assert float_operators(built.integers) == []
    assert [i.name for i in built.compiled.inputs] == ["x0", "x1"]
    assert [o.shape for o in built.compiled.outputs] == [(1, 4, 8, 8), (1, 8, 8, 8), (1, 2, 8, 8)]


def test_integer_inputs():
    def make(net):
        tokens = net.op("Gather", net.weight(10, 16), net.input(2, 5, name="ids", dtype="int64"))
        return [net.dense(net.op("Relu", net.dense(tokens, 16, 8)), 8, 4)]

    assert outputs_of(make).compiled.inputs[0].dtype == "int64"


def test_an_output_that_is_an_input_a_constant_or_named_twice():
    def make(net):
        x = net.input(*IMAGE)
        y = net.conv(x, 3, 4)
        return [x, y, net.op("Identity", net.weight(3)), net.op("Identity", y)]

    outputs_of(make)


def test_a_layer_read_raw_and_by_the_next():
    def make(net):
        y = net.conv(net.input(*IMAGE), 3, 8)
        return [y, net.conv(net.op("Relu", y), 8, 4)]

    outputs_of(make)


def test_dead_branches_and_shared_weights():
    def make(net):
        weight = net.weight(4, 4, 3, 3, scale=0.2)
        y = net.op("Conv", net.input(1, 4, 8, 8), weight, pads=[1] * 4)
        net.op("Sigmoid", y)
        return [net.op("Conv", net.op("Relu", y), weight, pads=[1] * 4)]

    outputs_of(make)


@pytest.mark.parametrize("kind", ["Relu", "Identity", "Softmax"])
def test_no_layers_at_all(kind):
    net = Net()
    model, data = net.model(net.op(kind, net.input(2, 5))), net.data(1)
    compiled = tvmquant.compile(model, calibration=data)
    assert compiled.precision == "float32"
    np.testing.assert_allclose(compiled(data[0]["x0"]), run_onnx(model, data[0])[0], rtol=1e-5)


def test_computed_weights_stay_float():
    net = Net()
    x, w = net.input(*IMAGE), net.input(4, 3, 3, 3)
    model, data = net.model(net.op("Conv", x, net.op("Relu", w))), net.data(1)
    compiled = tvmquant.compile(model, calibration=data)
    want = run_onnx(model, data[0])[0]
    np.testing.assert_allclose(compiled(*data[0].values()), want, rtol=1e-4, atol=1e-4)


# -- recipes ------------------------------------------------------------------------------------
def layer_bits(built):
    return {
        layer.name: (layer.weight_bits, layer.activation_bits)
        for layer in built.compiled.layers
        if layer.macs
    }


def test_bits_of_the_first_and_last_layers(plain):
    built = build(*plain, 4)
    assert layer_bits(built) == {"first": (8, 8), "middle": (4, 4), "last": (8, 8)}
    built.assert_exact(plain[1])


def test_rules_change_one_layer(plain, tmp_path):
    recipe = Recipe.for_bits(8, layers=(LayerRule("mid*", weight_bits=2, activation_bits=4),))
    recipe.save(tmp_path / "recipe.json")
    built = build(*plain, recipe=str(tmp_path / "recipe.json"))
    assert layer_bits(built) == {"first": (8, 8), "middle": (2, 4), "last": (8, 8)}
    built.assert_exact(plain[1])


def test_rules_reach_every_kind_of_layer():
    """Layers keep the names of their ONNX nodes through every rewriting."""
    net = Net()
    y = net.conv(net.input(1, 4, 12), 4, 4, (3,), name="net/conv1d")
    spread = np.ones(4, np.float32)
    y = net.op("BatchNormalization", y, *(net.weight(4) for _ in range(3)), spread)
    weight = net.weight(4, 4, 2)
    y = net.op("ConvTranspose", y, weight, net.weight(4), strides=[2], name="net/up")
    y = net.dense(net.op("Relu", y), 24, 6, name="net/matmul")
    y = net.op("Flatten", y)
    y = net.op("Gemm", y, net.weight(5, 24), net.weight(5), transB=1, name="net/gemm")
    names = ["net/conv1d", "net/up", "net/matmul", "net/gemm"]
    rules = tuple(LayerRule(n, weight_bits=b) for n, b in zip(names, (4, 2, 1, 4)))
    built = build(net.model(y), net.data(2), recipe=Recipe(layers=rules))
    assert layer_bits(built) == dict(zip(names, [(4, 8), (2, 8), (1, 8), (4, 8)]))
    built.assert_exact(net.data(2))


def test_one_layer_in_float(plain):
    model, data = plain
    built = build(model, data, recipe=Recipe(layers=(LayerRule("middle", quantize=False),)))
    assert layer_bits(built)["middle"] == (None, None)
    assert operators(built.integers).count("nn.conv2d") == 1
    for feeds in data:
        assert cosine(built.run(feeds)[0], run_onnx(model, feeds)[0]) > 0.995


def test_all_layers_in_float(plain):
    model, data = plain
    compiled = tvmquant.compile(
        model, calibration=data, recipe=Recipe(layers=(LayerRule("*", quantize=False),))
    )
    want = run_onnx(model, data[0])[0]
    np.testing.assert_allclose(compiled(data[0]["image"]), want, rtol=1e-4, atol=1e-5)


def test_manifest_keeps_the_recipe(plain):
    compiled = tvmquant.compile(plain[0], bits="w4a8", calibration=plain[1])
    assert compiled.precision == "w4a8"
    wanted = Recipe.for_bits("w4a8").with_corrections()
    assert Recipe.from_json(json.dumps(compiled.manifest.recipe)) == wanted


# -- complaints ---------------------------------------------------------------------------------
def test_noise_is_used_with_a_warning(plain):
    with pytest.warns(SyntheticCalibrationWarning, match="no calibration data"):
        tvmquant.quantize(plain[0])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bits": 3}, TargetError, "unknown precision 3"),
        ({"bits": "w4"}, TargetError, "unknown precision 'w4'"),
        ({"target": "toaster"}, TargetError, "toaster"),
        ({"recipe": 4}, RecipeError, "must be a Recipe, a name or a path"),
        ({"recipe": "missing.json"}, RecipeError, "missing.json"),
        ({"calibration": []}, InputError, "empty"),
        ({"calibration": [np.zeros((1, 3, 4, 4), np.float32)]}, InputError, "image"),
        ({"calibration": [np.full(IMAGE, np.nan, np.float32)]}, InputError, "NaN"),
    ],
)
def test_bad_options(plain, options, error, message):
    with pytest.raises(error, match=message) as caught:
        tvmquant.compile(plain[0], **{"calibration": plain[1], **options})
    assert "\n" not in str(caught.value)


def test_bad_models(tmp_path):
    with pytest.raises(InputError, match="cannot load a model of type dict"):
        tvmquant.compile({})
    with pytest.raises(ModelError, match="does not exist"):
        tvmquant.compile(tmp_path / "none.onnx")
