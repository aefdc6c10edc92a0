"""Transposed convolutions as convolutions and a pixel shuffle, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from networks import Net, interpret, operators, run_onnx
from run_relax import build_module, const
from tvm import relax

from tvmquant.frontend import load_model
from tvmquant.ops import waist
from tvmquant.passes.conv_transpose import phase_weights
from tvmquant.passes.layout import channels_last

CASES = {
    "stride": ((3, 3), 1, {"strides": [2, 2]}),
    "stride larger than the kernel": ((2, 1), 1, {"strides": [3, 2]}),
    "no stride": ((3, 2), 1, {}),
    "pads": ((4, 3), 1, {"strides": [2, 2], "pads": [1, 0, 2, 1]}),
    "output padding": (
        (3, 3),
        1,
        {"strides": [2, 3], "pads": [1, 1, 1, 1], "output_padding": [1, 2]},
    ),
    "dilation": ((3, 2), 1, {"strides": [2, 1], "dilations": [3, 2]}),
    "groups": ((3, 3), 2, {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "depthwise": ((4, 4), 4, {"strides": [2, 2], "pads": [1, 1, 1, 1], "dilations": [1, 2]}),
}


@pytest.mark.parametrize("name", CASES)
def test_same_as_onnxruntime(name):
    kernel, group, attrs = CASES[name]
    net = Net()
    x = net.input(2, 4, 5, 6)
    y = net.op("ConvTranspose", x, net.weight(4, 8 // group, *kernel), group=group, **attrs)
    model, (feeds,) = net.model(y), net.data(1)
    mod = channels_last(load_model(model).mod)
    assert "nn.conv2d_transpose" not in operators(mod)
    assert operators(mod).count("nn.conv2d") == 1
    (want,), (got,) = run_onnx(model, feeds), interpret(mod, feeds.values())
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_phases_hold_every_tap_once():
    weight = np.arange(1, 1 + 2 * 3 * 5 * 4, dtype=np.float32).reshape(2, 3, 5, 4)
    phases, taps = phase_weights(weight, (2, 3), (1, 1), 1)
    assert taps == (3, 2)
    assert phases.shape == (2 * 3 * 3, 3, 2, 2)
    assert sorted(phases[phases != 0]) == sorted(weight.ravel())


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("zero", [0, 3])
def test_quantized_weights_stay_integers(per_channel, zero):
    rng = np.random.default_rng(0)
    q = rng.integers(-100, 100, (4, 6, 3, 3)).astype(np.int8)
    size = 6 if per_channel else 1
    scale = rng.uniform(0.1, 0.2, size).astype(np.float32)
    point = np.full(size, zero, np.int8)
    x = rng.standard_normal((1, 4, 5, 5)).astype(np.float32)

    def body(emit, x):
        w = emit(waist.dequantize(*map(const, (q, scale, point)), bits=8, axis=1))
        return relax.op.nn.conv2d_transpose(x, w, strides=2, padding=[1, 1])

    mod = build_module([x], body)
    out = channels_last(mod)
    assert "nn.conv2d" in operators(out)
    np.testing.assert_allclose(interpret(out, [x])[0], interpret(mod, [x])[0], rtol=1e-3, atol=1e-3)


def test_computed_weights_are_left_alone():
    x, w = np.zeros((1, 4, 5, 5), np.float32), np.zeros((4, 2, 3, 3), np.float32)
    mod = build_module([x, w], lambda emit, x, w: relax.op.nn.conv2d_transpose(x, w))
    assert operators(channels_last(mod)) == ["nn.conv2d_transpose"]
