"""Kernels are chosen and constants packed: sizes, workloads, float layers that remain."""

from __future__ import annotations

import json

import numpy as np
import pytest
from networks import Net, realized

from tvmquant.graph import Graph, is_const, name_of
from tvmquant.ops import is_op
from tvmquant.passes.pack import pack
from tvmquant.quant_spec import LayerRule
from tvmquant.recipe import Recipe
from tvmquant.schedules.selection import KernelTable
from tvmquant.targets import get_device


def packed_calls(net, *outputs, recipe=None):
    integers = realized(net.model(*outputs), net.data(1), recipe=recipe or Recipe()).integers
    graph = Graph(pack(integers, KernelTable(get_device("host"))))
    return [v for _, v in graph.bindings if is_op(v, "tvmquant.packed")], graph


def size(call):
    return sum(arg.value.numpy().nbytes for arg in call.args if is_const(arg))


def workload(call):
    return json.loads(str(call.attrs["workload"]))


def bytes_at(bits):
    net = Net()
    y = net.conv(net.input(1, 64, 8, 8), 64, 64)
    (call,), _ = packed_calls(net, y, recipe=Recipe.for_bits(f"w{bits}a8", first_last_bits=None))
    assert workload(call)["w_bits"] == bits
    return size(call)


@pytest.mark.parametrize("bits", [4, 2, 1])
def test_low_bit_weights_are_really_packed(bits):
    plain = 64 * 64 * 9
    rest = 2048  # biases, scales, offsets
    assert plain <= bytes_at(8) <= plain + rest
    assert plain * bits / 8 <= bytes_at(bits) <= plain * bits / 8 + rest


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
@pytest.mark.parametrize("kind", ["conv2d", "depthwise_conv2d", "matmul"])
def test_workloads(kind, bits):
    net = Net()
    if kind == "matmul":
        y = net.dense(net.input(2, 3, 16), 16, 5)
    else:
        group = 16 if kind == "depthwise_conv2d" else 1
        y = net.conv(net.input(1, 16, 6, 6), 16, 16, group=group, strides=[2, 1])
    (call,), _ = packed_calls(net, y, recipe=Recipe.for_bits(bits, first_last_bits=None))
    found = workload(call)
    assert (found["op"], found["w_bits"], found["x_bits"]) == (kind, bits, bits)
    assert found["requantize"] == "dequantize"
    if kind == "matmul":
        assert (found["x_shape"], found["w_shape"]) == ([6, 16], [5, 16])
    else:
        assert found["strides"] == [2, 1]
    assert list(call.attrs["out_shape"]) == [6, 5] if kind == "matmul" else [1, 3, 6, 16]


def test_the_numbers_of_a_layer_are_constants():
    net = Net()
    y = net.op("Relu", net.conv(net.input(1, 3, 6, 6), 3, 4))
    first, _ = packed_calls(net, net.conv(y, 4, 2))[0]
    x_zero, out_zero, low, high = first.args[-1].value.numpy()
    assert 0 < x_zero < 255
    assert (out_zero, low, high) == (0, 0, 255)


def test_float_layers_take_their_bias():
    net = Net()
    y = net.op("Relu", net.conv(net.input(1, 3, 6, 6), 3, 4, name="image"))
    y = net.op("Flatten", net.conv(y, 4, 4, group=4, name="depth"))
    y = net.dense(y, 144, 5, name="dense")
    calls, graph = packed_calls(net, y, recipe=Recipe(layers=(LayerRule("*", quantize=False),)))
    assert [workload(c)["op"] for c in calls] == [
        "conv2d_float",
        "depthwise_conv2d_float",
        "matmul_float",
    ]
    assert "add" not in [name_of(v) for _, v in graph.bindings]


def test_layers_of_one_shape_share_a_kernel():
    net = Net()
    y = net.input(1, 8, 6, 6)
    for _ in range(3):
        y = net.op("Relu", net.conv(y, 8, 8, bias=False))
    for name, value in net.constants.items():  # so that none can saturate
        net.constants[name] = np.sign(value) * np.abs(value).clip(0.1)
    calls, _ = packed_calls(net, net.conv(y, 8, 8))
    assert len({str(c.attrs["workload"]) for c in calls[:3]}) <= 2
