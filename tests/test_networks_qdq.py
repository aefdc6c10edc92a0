"""Networks that ONNX Runtime quantized run in integers and give ONNX Runtime's own numbers."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from networks import Net, build, float_operators, operators, realized, run_onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

import tvmquant
from tvmquant.graph import Graph
from tvmquant.ops import is_op

U8, S8 = QuantType.QUInt8, QuantType.QInt8
FORMATS = [QuantFormat.QDQ, QuantFormat.QOperator]


class Reader(CalibrationDataReader):
    def __init__(self, data):
        self.samples = iter(data)

    def get_next(self):
        return next(self.samples, None)


def quantized(net, output, folder, style, activations=U8, weights=S8, per_channel=False, sym=False):
    """The network quantized by ONNX Runtime, and its inputs."""
    model, data = net.model(output), net.data(4)
    source, target = folder / "float.onnx", folder / "quantized.onnx"
    onnx.save(model, source)
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        quantize_static(
            source,
            target,
            Reader(data),
            quant_format=style,
            activation_type=activations,
            weight_type=weights,
            per_channel=per_channel,
            extra_options={"ActivationSymmetric": sym, "WeightSymmetric": weights == S8},
        )
    finally:
        logging.disable(level)
    return onnx.load(target), data


def assert_same_numbers(built, model, data, share=0.999):
    """At most one step of the output away, for ``share`` of the elements."""
    for feeds in data:
        (want,) = run_onnx(model, feeds)
        (got,) = built.interpret(feeds)
        levels = np.unique(want)
        step = np.diff(levels)[np.diff(levels) > 1e-4 * np.ptp(levels)].min()
        assert np.mean(np.abs(got - want) < 1.01 * step) >= share


def vision():
    net = Net(opset=17)
    x = net.op("Relu", net.conv(net.input(1, 3, 10, 12), 3, 8))
    y = net.op("Relu", net.conv(x, 8, 8, group=8, strides=[2, 2], pads=[0, 0, 1, 1]))
    y = net.op("Add", net.conv(y, 8, 8, 1), net.conv(y, 8, 8, group=2))
    y = net.op("Concat", y, net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), axis=1)
    y = net.conv(net.op("Mul", y, net.op("Sigmoid", net.conv(y, 16, 16, 1))), 16, 8)
    y = net.op("Flatten", net.op("GlobalAveragePool", y))
    return net, net.op("Gemm", y, net.weight(6, 8, scale=0.3), net.weight(6), transB=1)


def sequence():
    net = Net(opset=17)
    y = net.op("Relu", net.conv(net.input(1, 4, 20), 4, 8, (3,)))
    y = net.op("Relu", net.conv(y, 8, 8, (3,), strides=[2], pads=[0, 2]))
    return net, net.conv(net.op("LeakyRelu", y, alpha=0.2), 8, 4, (1,))


def tokens():
    net = Net(opset=17)
    x = net.input(2, 6, 16)
    keys = net.op("Transpose", net.dense(x, 16, 8), perm=[0, 2, 1])
    return net, net.dense(net.op("MatMul", net.dense(x, 16, 8), keys), 6, 4)


def upscaling():
    net = Net(opset=17)
    x = net.op("Relu", net.conv(net.input(1, 3, 6, 7), 3, 8))
    weight, bias = net.weight(8, 6, 3, 3, scale=0.2), net.weight(6)
    y = net.op("ConvTranspose", x, weight, bias, strides=[2, 2], pads=[1, 1, 0, 0])
    scales = np.array([1, 1, 2, 2], np.float32)
    return net, net.conv(net.op("Resize", net.op("Relu", y), "", scales, mode="nearest"), 6, 4)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("activations, sym", [(U8, False), (S8, True), (S8, False)])
@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize("make", [vision, sequence, tokens])
def test_runs_in_integers(make, style, activations, sym, per_channel, tmp_path):
    model, data = quantized(*make(), tmp_path, style, activations, per_channel=per_channel, sym=sym)
    built = realized(model, None)
    left = float_operators(built.integers)
    if style == QuantFormat.QOperator:  # ONNX Runtime itself leaves these in float
        left = [name for name in left if name not in ("tvmquant.dequantize", "nn.relu")]
    assert left == []
    assert_same_numbers(built, model, data)


@pytest.mark.parametrize("make", [vision, sequence, tokens, upscaling])
def test_compiled_module_is_exact(make, tmp_path):
    model, data = quantized(*make(), tmp_path, QuantFormat.QDQ, per_channel=True)
    built = build(model, None)
    assert float_operators(built.integers) == []
    built.assert_exact(data)
    assert_same_numbers(built, model, data)


def test_scales_of_the_model_are_kept(tmp_path):
    """No calibration, no second quantization: the file's own scales and integers are used."""
    model, _ = quantized(*sequence(), tmp_path, QuantFormat.QDQ)
    again = tvmquant.quantize(model, bits=4)
    scales = {
        float(onnx.numpy_helper.to_array(t).reshape(-1)[0])
        for t in model.graph.initializer
        if t.name.endswith("_scale")
    }
    found = [
        float(value.args[1].value.numpy())
        for _, value in Graph(again.mod).bindings
        if is_op(value, "tvmquant.quantize")
    ]
    assert len(found) >= 4
    assert set(found) <= scales
    assert operators(realized(model, None).integers).count("tvmquant.conv2d") == 3


def test_uint8_weights_around_128_are_integers(tmp_path):
    """Unsigned weights are moved by 128 where they then fit; their zero point differs a little."""
    net = Net(opset=17)
    y = net.conv(net.input(1, 3, 8, 8), 3, 8)
    for name, value in net.constants.items():
        if value.ndim == 4:  # the same reach on both sides: zero point 127 or 128
            value.flat[:2] = np.abs(value).max() * np.array([-1, 127 / 128])
            net.constants[name] = value
    model, data = quantized(net, y, tmp_path, QuantFormat.QDQ, weights=U8)
    built = realized(model, None)
    assert "tvmquant.conv2d" in operators(built.integers)
    assert_same_numbers(built, model, data)


def test_skewed_uint8_weights_stay_float_and_right(tmp_path):
    net = Net(opset=17)
    y = net.conv(net.input(1, 3, 8, 8), 3, 8)
    net.constants = {
        n: np.abs(v) - np.float32(0.1) if v.ndim == 4 else v for n, v in net.constants.items()
    }
    model, data = quantized(net, y, tmp_path, QuantFormat.QDQ, weights=U8)
    built = build(model, None)
    assert "nn.conv2d" in operators(built.integers)
    assert_same_numbers(built, model, data)
    for feeds in data:
        np.testing.assert_allclose(built.run(feeds)[0], built.interpret(feeds)[0], atol=0.05)
