"""The description of a compiled model's layers."""

from __future__ import annotations

import pytest
from networks import Net

import tvmquant
from tvmquant.quant_spec import LayerRule
from tvmquant.recipe import Recipe


@pytest.fixture(scope="module")
def layers():
    net = Net()
    x = net.op("HardSwish", net.conv(net.input(1, 3, 8, 8), 3, 16, name="stem"))
    y = net.conv(x, 16, 16, group=16, name="depth")
    y = net.conv(net.op("Relu", y), 16, 16, 1, name="plain")
    y = net.op("Flatten", net.op("GlobalAveragePool", net.op("Add", x, y)))
    model = net.model(net.dense(y, 16, 5, name="head"))
    recipe = Recipe.for_bits(
        "w4a8", layers=(LayerRule("plain", quantize=False), LayerRule("depth", weight_bits=8))
    )
    return tvmquant.compile(model, calibration=net.data(2), recipe=recipe).layers


def test_layers_in_order_with_their_bits(layers):
    found = {i.name: (i.operator, i.weight_bits, i.activation_bits) for i in layers if i.macs}
    assert found == {
        "stem": ("conv2d", 8, 8),
        "depth": ("depthwise_conv2d", 8, 8),
        "plain": ("conv2d", None, None),
        "head": ("matmul", 8, 8),
    }
    assert list(found) == ["stem", "depth", "plain", "head"]


def test_shapes_and_work(layers):
    by_name = {layer.name: layer for layer in layers}
    stem, head = by_name["stem"], by_name["head"]
    assert stem.input_shapes == ((1, 8, 8, 3), (16, 3, 3, 3))
    assert stem.output_shape == (1, 8, 8, 16)
    assert stem.macs == 64 * 16 * 27
    assert head.macs == 16 * 5
    assert stem.weight_bytes >= 16 * 27
    assert by_name["plain"].weight_bytes >= 16 * 16 * 4


def test_light_operators_are_listed(layers):
    light = [layer for layer in layers if not layer.macs]
    operators = " ".join(layer.operator for layer in light)
    for part in ("lut", "add", "mean", "quantize"):
        assert part in operators
    assert all(layer.kernel == "scheduled" and layer.weight_bits is None for layer in light)
    (table,) = [layer for layer in light if layer.operator == "lut"]
    assert table.activation_bits == 8
    assert table.weight_bytes == 256
