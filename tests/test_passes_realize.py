"""How the pass walks a graph: who fuses, who is left, what several readers get."""

from __future__ import annotations

import numpy as np
from networks import Net, interpret, operators, realized
from run_relax import build_module, const
from tvm import relax

from tvmquant.graph import Graph
from tvmquant.ops import is_op, waist
from tvmquant.ops.dynamic import dynamic_quantize
from tvmquant.passes.realize import realize
from tvmquant.recipe import Recipe

op = relax.op
X = np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)
SCALE, ZERO = const(np.float32(0.05)), const(np.uint8(100))
OUT = {"bits": 8, "qmin": 0, "qmax": 255, "dtype": "uint8"}


def quantized(emit, x, scale=SCALE):
    q = emit(waist.quantize(x, scale, ZERO, **OUT))
    return emit(waist.dequantize(q, scale, ZERO, bits=8))


def check(body, expected):
    mod = build_module([X], body)
    out = realize(mod, Recipe())
    assert operators(out) == expected
    for got, want in zip(interpret(out, [X]), interpret(mod, [X])):
        np.testing.assert_allclose(got, want, atol=0.051)


def test_quantizing_again_to_the_same_numbers_costs_nothing():
    check(
        lambda emit, x: quantized(emit, emit(op.nn.relu(quantized(emit, quantized(emit, x))))),
        ["tvmquant.quantize", "tvmquant.lut", "tvmquant.dequantize"],
    )


def test_other_numbers_are_a_table():
    check(
        lambda emit, x: quantized(emit, quantized(emit, x), const(np.float32(0.04))),
        ["tvmquant.quantize", "tvmquant.lut", "tvmquant.dequantize"],
    )


def test_unknown_operators_stay_between_dequantize_and_quantize():
    check(
        lambda emit, x: quantized(emit, emit(op.nn.softmax(quantized(emit, x)))),
        [
            "tvmquant.quantize",
            "tvmquant.dequantize",
            "nn.softmax",
            "tvmquant.quantize",
            "tvmquant.dequantize",
        ],
    )


def test_a_float_graph_is_left_alone():
    check(lambda emit, x: op.tanh(emit(op.add(x, x))), ["add", "tanh"])


def test_scales_at_run_time_are_left_alone():
    """``DynamicQuantizeLinear`` before anything but a layer: the numbers are not constants."""

    def body(emit, x):
        made = emit(dynamic_quantize(x))
        q, scale, zero = (emit(relax.TupleGetItem(made, i)) for i in range(3))
        return waist.dequantize(q, scale, zero, bits=8)

    check(body, ["tvmquant.dynamic_quantize", "tvmquant.dequantize"])


def layers(net, *outputs):
    built = realized(net.model(*outputs), net.data(2))
    found = [v for _, v in Graph(built.integers).bindings if is_op(v, "tvmquant.conv2d")]
    return operators(built.integers), [str(v.attrs["requantize"]) for v in found]


def test_a_float_reader_gets_the_layer_without_rounding():
    net = Net()
    y = net.conv(net.input(1, 3, 6, 6), 3, 4)
    names, flavours = layers(net, net.op("Softmax", y, axis=1))
    assert flavours == ["dequantize"]
    assert "tvmquant.quantize" in names


def test_an_output_and_a_layer_share_one_computation():
    net = Net()
    y = net.op("Relu", net.conv(net.input(1, 3, 6, 6), 3, 4))
    names, flavours = layers(net, net.conv(y, 4, 2), y)
    assert sorted(flavours) == ["dequantize", "float"]
    assert names.count("tvmquant.dequantize") == 1


def test_layers_keep_their_names():
    net = Net()
    y = net.op("Relu", net.conv(net.input(1, 3, 6, 6), 3, 4, name="stem/conv"))
    built = realized(net.model(net.conv(y, 4, 2, name="head/conv")), net.data(1))
    named = [
        str(v.attrs["name"])
        for _, v in Graph(built.integers).bindings
        if is_op(v, "tvmquant.conv2d")
    ]
    assert named == ["stem/conv", "head/conv"]
