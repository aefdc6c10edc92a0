"""Which additions become part of a layer, and that the numbers stay the same."""

from dataclasses import replace

import pytest
from networks import Net, build, realized

from tvmquant.graph import Graph, name_of
from tvmquant.ops import is_op
from tvmquant.passes.fuse_additions import fuse_additions
from tvmquant.passes.lower import workload_from_json
from tvmquant.passes.pack import pack
from tvmquant.recipe import Recipe
from tvmquant.schedules.selection import KernelTable
from tvmquant.targets import get_device


def fused(net, *outputs):
    """Names of the packed layers in order, those that add last; number of additions left."""
    kernels = KernelTable(get_device("host"))
    mod = fuse_additions(
        pack(realized(net.model(*outputs), net.data(1)).integers, kernels), kernels
    )
    values = [value for _, value in Graph(mod).bindings]
    layers = [value for value in values if is_op(value, "tvmquant.packed")]
    adding = [
        str(layer.attrs["name"])
        for layer in layers
        if workload_from_json(str(layer.attrs["workload"])).residual
    ]
    return adding, [name_of(value) for value in values].count("tvmquant.add"), len(layers)


def block(net, x, channels=16, first="first", second="second"):
    y = net.op("Relu", net.conv(x, channels, channels, name=first))
    return net.conv(y, channels, channels, name=second)


def end(net, x, channels=16):
    return net.conv(net.op("Relu", x), channels, 4, 1, name="end")


def test_a_residual_addition_joins_the_layer_before_it():
    net = Net()
    x = net.op("Relu", net.conv(net.input(1, 16, 8, 8), 16, 16, name="stem"))
    y = end(net, net.op("Add", x, block(net, x), name="sum"))
    adding, left, layers = fused(net, y)
    assert left == 0 and layers == 4
    (name,) = adding
    layer, total = name.split(" + ")
    assert layer.startswith("second") and total


def test_of_two_layers_the_later_one_adds():
    net = Net()
    x = net.op("Relu", net.conv(net.input(1, 16, 8, 8), 16, 16, name="stem"))
    long = block(net, x)
    short = net.conv(x, 16, 16, 1, name="shortcut")
    adding, left, layers = fused(net, end(net, net.op("Add", long, short)))
    assert (len(adding), left, layers) == (1, 0, 5)
    assert adding[0].startswith("shortcut")


@pytest.mark.parametrize("case", ["read twice", "broadcast", "depthwise", "twice the same"])
def test_other_additions_stay(case):
    net = Net()
    x = net.op("Relu", net.conv(net.input(1, 16, 8, 8), 16, 16, name="stem"))
    group = 16 if case == "depthwise" else 1
    y = net.conv(x, 16, 16, name="layer", group=group)
    outputs = []
    other = x
    if case == "read twice":
        outputs.append(net.conv(y, 16, 4, 1, name="more"))
    if case == "broadcast":
        other = net.op("GlobalAveragePool", x)
    if case == "twice the same":
        other = y
    total = end(net, net.op("Add", y, other))
    adding, left, _ = fused(net, total, *outputs)
    assert not adding and left <= 1


def test_layers_that_add_share_a_kernel():
    net = Net()
    x = net.op("Relu", net.conv(net.input(1, 16, 8, 8), 16, 16, name="stem"))
    for index in range(2):
        x = net.op("Relu", net.op("Add", x, block(net, x, 16, f"a{index}", f"b{index}")))
    kernels = KernelTable(get_device("host"))
    mod = pack(realized(net.model(end(net, x)), net.data(1)).integers, kernels)
    mod = fuse_additions(mod, kernels)
    texts = [
        str(value.attrs["workload"])
        for _, value in Graph(mod).bindings
        if is_op(value, "tvmquant.packed") and "+" in str(value.attrs["name"])
    ]
    assert len(texts) == 2 and len(set(texts)) <= 2


@pytest.mark.parametrize("requantize", ["float", "fixed_point", "power_of_two"])
@pytest.mark.parametrize("bits", [8, 4, 1])
def test_compiled_networks_equal_the_interpreter(bits, requantize):
    net = Net(seed=bits)
    x = net.op("Relu", net.conv(net.input(2, 16, 9, 7), 16, 40, name="stem"))
    x = net.op("Relu", net.op("Add", x, block(net, x, 40)))
    y = net.conv(x, 40, 40, 1, name="shortcut")
    y = net.op("Add", block(net, x, 40, "third", "fourth"), y)
    recipe = replace(Recipe.for_bits(bits), requantize=requantize)
    built = build(net.model(end(net, y, 40)), net.data(2), recipe=recipe)
    names = [layer.name for layer in built.compiled.manifest.layers]
    assert sum(" + " in name for name in names) == 2
    built.assert_exact(net.data(2, seed=9))
