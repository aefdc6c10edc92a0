"""ncnn's model files, as the ARM benchmark writes and changes them."""

import struct

import numpy as np
import pytest

from benchmarks.arm import ncnn_format, ncnn_network
from benchmarks.arm.ncnn_format import NcnnLayer


def conv(name, source, target, kind="Convolution", **more):
    params = {0: "4", 1: "1", 5: "1", 6: "12"} | ({7: "4"} if kind != "Convolution" else {})
    rng = np.random.default_rng(len(name))
    weight = rng.standard_normal(12).astype(np.float32)
    bias = rng.standard_normal(4).astype(np.float32)
    return NcnnLayer(kind, name, [source], [target], params, weight, bias, **more)


def network():
    return [
        NcnnLayer("Input", "in", [], ["x"], {0: "8", 1: "8", 2: "3"}),
        conv("first", "x", "a"),
        NcnnLayer("Split", "split", ["a"], ["a0", "a1"]),
        conv("left", "a0", "b", "ConvolutionDepthWise"),
        conv("right", "a1", "c"),
        NcnnLayer("BinaryOp", "add", ["b", "c"], ["y"], {0: "0"}),
    ]


def test_float_models_come_back(tmp_path):
    layers = network()
    param, weights = ncnn_format.write(layers, tmp_path / "model")
    assert param.read_text().splitlines()[:2] == ["7767517", "6 7"]
    found = ncnn_format.read(param, weights)
    for layer, again in zip(layers, found, strict=True):
        assert again.line() == layer.line()
        assert again.data() == layer.data()


def test_integer_weights_have_mark_padding_bias_and_scales():
    layer = conv("int8", "x", "y", input_scale=2.0, output_scale=3.0)
    data = layer.data()
    assert struct.unpack("<I", data[:4])[0] == 0x000D4B38
    integers = np.frombuffer(data, np.int8, 12, 4).reshape(4, 3)
    floats = np.frombuffer(data[16:], "<f4")
    assert np.array_equal(floats[:4], layer.bias)
    scales = floats[4:8]
    rows = layer.weight.reshape(4, 3)
    np.testing.assert_allclose(scales, 127 / np.abs(rows).max(axis=1), rtol=1e-6)
    assert np.abs(integers / scales[:, None] - rows).max() <= 0.5 / scales.min() + 1e-6
    assert floats[8:].tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    ("kind", "output_scale", "term"),
    [
        ("Convolution", None, "8=2"),
        ("Convolution", 1.0, "8=102"),
        ("ConvolutionDepthWise", None, "8=1"),
        ("ConvolutionDepthWise", 1.0, "8=101"),
    ],
)
def test_term_of_integer_layers(kind, output_scale, term):
    layer = conv("c", "x", "y", kind, input_scale=1.0, output_scale=output_scale)
    assert term in layer.line().split()


def test_layers_read_by_convolutions_only_requantize(monkeypatch):
    tops = {"x": 2.0, "a0": 4.0, "a1": 4.0}
    monkeypatch.setattr(ncnn_network, "_ranges", lambda pi, layers, x, blobs: tops)
    layers = {layer.name: layer for layer in ncnn_network.quantize(None, network(), np.zeros(1))}
    assert layers["first"].input_scale == 127 / 2
    assert layers["first"].output_scale == 127 / 4
    assert layers["left"].input_scale == layers["right"].input_scale == 127 / 4
    assert layers["left"].output_scale is layers["right"].output_scale is None
