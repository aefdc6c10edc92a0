"""What each operator is to the quantizer."""

from __future__ import annotations

import numpy as np
import pytest
from networks import Net

from tvmquant.frontend import load_model
from tvmquant.passes.regions import Regions
from tvmquant.passes.simplify import simplify
from tvmquant.quant_spec import LayerRule
from tvmquant.recipe import Recipe

F = np.float32


def regions(net, *outputs, recipe=None):
    return Regions(simplify(load_model(net.model(*outputs)).mod), recipe or Recipe())


def kind_of(step, *, capable=True):
    """Kind of the last operator of ``step(net, a convolution's output)`` before another one."""
    net = Net()
    y = step(net, net.conv(net.input(1, 3, 6, 6), 3, 4, name="first"))
    found = regions(net, net.conv(y, 4, 2, name="last"))
    last = next(v for v in found.weighted if v.name == "last")
    source = found.linear_call(last).args[0]
    assert found.capable[source] is capable
    return found.kind[source]


UNARY = {
    "chain": lambda net, x: net.op("Sigmoid", net.op("Mul", x, F(2))),
    "diamond": lambda net, x: net.op("Mul", x, net.op("Tanh", x)),
    "channels": lambda net, x: net.op("Mul", net.op("Relu", x), net.weight(4, 1, 1)),
    "condition": lambda net, x: net.op("Where", net.op("Less", x, F(0)), net.op("Neg", x), x),
    "constant first": lambda net, x: net.op("Div", F(1), net.op("Exp", x)),
}
FLOAT = {
    "softmax": lambda net, x: net.op("Softmax", x, axis=1),
    "constant map": lambda net, x: net.op("Add", x, net.weight(1, 4, 6, 6)),
    "maximum of two": lambda net, x: net.op("Max", x, net.op("GlobalAveragePool", x)),
    "linear resize": lambda net, x: net.op(
        "Resize", x, "", np.array([1, 1, 2, 2], F), mode="linear"
    ),
    "padding by ones": lambda net, x: net.op("Pad", x, np.array([0, 0, 1, 1, 0, 0, 1, 1]), F(1)),
}


@pytest.mark.parametrize("name", UNARY)
def test_unary(name):
    assert kind_of(UNARY[name]) == "unary"


@pytest.mark.parametrize("name", FLOAT)
def test_float(name):
    assert kind_of(FLOAT[name], capable=False) == "float"


def test_other_kinds():
    assert kind_of(lambda net, x: x) == "linear"
    assert kind_of(lambda net, x: net.op("Add", x, net.op("GlobalAveragePool", x))) == "binary"
    assert kind_of(lambda net, x: net.op("GlobalAveragePool", x)) == "pool"
    assert kind_of(lambda net, x: net.op("Transpose", x, perm=[0, 1, 3, 2])) == "move"
    assert kind_of(lambda net, x: net.op("MaxPool", x, kernel_shape=[2, 2])) == "move"


def test_capability_ends_at_float_operators():
    """A sum with a softmax: the softmax must be quantized first, so the sum is left in float."""
    step = lambda net, x: net.op("Add", x, net.op("Softmax", x, axis=1))  # noqa: E731
    assert kind_of(step, capable=False) == "binary"


def test_first_and_last_layers():
    net = Net()
    x = net.conv(net.input(1, 3, 6, 6), 3, 4, name="stem")
    y = net.conv(net.op("Relu", x), 4, 4, name="body")
    heads = [net.conv(y, 4, 2, name=f"head{i}") for i in range(2)]
    side = net.conv(net.input(1, 3, 6, 6), 3, 2, name="side")
    first, last = regions(net, *heads, side).layer_order()
    assert {v.name for v in first} == {"stem", "side"}
    assert {v.name for v in last} == {"head0", "head1", "side"}


def test_layers_left_in_float_are_no_layers():
    net = Net()
    x = net.op("Relu", net.conv(net.input(1, 3, 6, 6), 3, 4, name="stem"))
    y = net.op("Relu", net.conv(x, 4, 4, name="body"))
    recipe = Recipe(layers=(LayerRule("stem", quantize=False),))
    found = regions(net, net.conv(y, 4, 2, name="head"), recipe=recipe)
    assert [v.name for v in found.weighted] == ["body", "head"]
    first, _ = found.layer_order()
    assert [v.name for v in first] == ["body"]
