"""Quantization without data, from a model with batch norms to its integers."""

import warnings

import numpy as np
import pytest
from batch_norm_tools import NormNet, pictures, residual
from click.testing import CliRunner
from networks import Net, cosine, realized, run_onnx

import tvmquant
from tvmquant.cli import main
from tvmquant.errors import RecipeError
from tvmquant.quantizer import SyntheticCalibrationWarning
from tvmquant.recipe import Recipe
from tvmquant.recipes import find_recipe


def loss(model, run, seed=7):
    """Squared error of a runner, a share of the variance of the outputs."""
    feeds = pictures(24, seed=seed)
    want = np.stack([run_onnx(model, f)[0] for f in feeds])
    got = np.stack([run(f) for f in feeds])
    return float(np.sum((got - want) ** 2) / np.sum((want - want.mean(0)) ** 2))


def quantized_loss(model, **options):
    integers = realized(model, None, **options)
    return loss(model, lambda feeds: integers.interpret(feeds)[0])


@pytest.mark.parametrize("bits", ["w8a8", "w4a8"])
def test_it_beats_noise_and_warns_of_none(bits):
    by_norms = by_noise = 0.0
    for seed in range(3):
        _, model = residual(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("error", SyntheticCalibrationWarning)
            by_norms += quantized_loss(model, recipe=find_recipe("data_free", bits))
        with pytest.warns(SyntheticCalibrationWarning, match="or recipe data_free: the model has"):
            by_noise += quantized_loss(model, bits=bits)
    assert by_norms < 0.7 * by_noise


def _conv1d(net):
    y = net.op("Conv", net.input(1, 3, 20), net.weight(8, 3, 5, scale=0.3), pads=[2, 2])
    y = net.op("Relu", net.batch_norm(y, 8))
    return net.op("Conv", y, net.weight(4, 8, 3, scale=0.3), pads=[1, 1])


def _transposed(net):
    weight = net.weight(3, 8, 2, 2, scale=0.5)
    y = net.op("ConvTranspose", net.input(1, 3, 8, 8), weight, strides=[2, 2])
    return net.conv(net.op("Relu", net.batch_norm(y, 8)), 8, 4)


def _gemm(net):
    y = net.op("Gemm", net.input(4, 10), net.weight(10, 8, scale=0.3), net.weight(8))
    return net.dense(net.op("Relu", net.batch_norm(y, 8)), 8, 4)


def _before_activation(net):
    y = net.op("Relu", net.batch_norm(net.conv(net.input(1, 3, 8, 8), 3, 8, bias=False), 8))
    y = net.op("Add", y, net.conv(y, 8, 8, bias=False))
    return net.conv(net.op("Relu", net.batch_norm(y, 8)), 8, 4)


def _scaled(net):
    y = net.batch_norm(net.conv(net.input(1, 3, 8, 8), 3, 8, bias=False), 8)
    return net.conv(net.op("HardSwish", net.op("Mul", y, net.weight(8, 1, 1))), 8, 4)


@pytest.mark.parametrize("make", [_conv1d, _transposed, _gemm, _before_activation, _scaled])
def test_batch_norms_anywhere(make):
    net = NormNet(1)
    y = make(net)
    feeds = net.data(30)
    net.normalize(feeds)
    model = net.model(y)
    integers = realized(model, None, recipe="data_free")
    got = np.stack([integers.interpret(f)[0] for f in feeds[:8]])
    assert cosine(got, np.stack([run_onnx(model, f)[0] for f in feeds[:8]])) > 0.999


def test_the_command_compiles_without_data(tmp_path):
    _, model = residual()
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    args = ["compile", str(path), "-o", str(tmp_path / "out"), "--recipe", "data_free"]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    assert "noise" not in result.output
    compiled = tvmquant.load(tmp_path / "out")
    assert compiled.precision == "w8a8"
    assert loss(model, lambda feeds: next(iter(compiled.run(feeds).values()))) < 0.05

    net = Net()
    bare = net.model(net.conv(net.input(1, 3, 8, 8), 3, 4))
    path.write_bytes(bare.SerializeToString())
    result = CliRunner().invoke(main, [*args[:3], str(tmp_path / "other"), *args[4:]])
    assert result.exit_code == 2
    assert "error: the model has no batch norms" in result.output


def test_standard_without_data_takes_batch_norms():
    _, model = residual()
    with warnings.catch_warnings():
        warnings.simplefilter("error", SyntheticCalibrationWarning)
        quantized = tvmquant.quantize(model, recipe="standard_ptq")
    assert quantized.recipe == find_recipe("standard_ptq").without_data()
    assert quantized.recipe.bias_correction == "analytic"
    with_data = tvmquant.quantize(model, recipe="standard_ptq", calibration=pictures(4))
    assert with_data.recipe == find_recipe("standard_ptq")


def test_what_a_recipe_needs():
    recipe = find_recipe("data_free", "w4a8")
    assert not recipe.needs_data and recipe.needs_batch_norms
    assert Recipe().needs_data and not Recipe().needs_batch_norms
    assert Recipe(bias_correction="analytic").needs_batch_norms
    assert Recipe.from_json(Recipe(input_range=(0, 1)).to_json()).input_range == (0.0, 1.0)
    with pytest.raises(RecipeError, match=r"input_range must be two finite numbers"):
        Recipe(input_range=(1, 0))
    weights = tvmquant.quant_spec.QuantSpec(symmetric=True, estimator="batch_norm")
    with pytest.raises(RecipeError, match="batch_norm is for activations"):
        Recipe(weights=weights)
