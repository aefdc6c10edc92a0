"""Blocks between points where one tensor is alive."""

import pytest
from networks import Net

from tvmquant.frontend import load_model
from tvmquant.graph import Graph, name_of
from tvmquant.passes.annotate import annotate
from tvmquant.passes.blocks import find_blocks
from tvmquant.passes.calibrate import calibrate
from tvmquant.passes.simplify import simplify
from tvmquant.recipe import Recipe


def blocks_of(build):
    """Names of the layers of every block, and the names of the blocks' outputs."""
    net = Net()
    model = net.model(build(net, net.input(1, 4, 8, 8)))
    recipe = Recipe.for_bits("w4a4")
    mod = annotate(simplify(load_model(model).mod), recipe)
    data = [list(feeds.values()) for feeds in net.data(2)]
    graph = Graph(calibrate(mod, data, recipe))
    before, blocks = find_blocks(
        graph, lambda v: name_of(graph.values[v]) in ("nn.conv2d", "matmul")
    )
    assert len(before) + len(flat(blocks)) == len(graph.bindings)
    for block in blocks[:-1]:
        own = [var for var, _ in block.bindings]
        later = {v for v in own for user in graph.users.get(v, ()) if user not in own}
        assert later == {block.output}
    return [[str(v.name) for v in b.layers] for b in blocks], [str(b.output.name) for b in blocks]


def flat(blocks):
    return [pair for block in blocks for pair in block.bindings]


def test_a_chain_is_cut_behind_every_activation():
    def build(net, x):
        x = net.op("Relu", net.conv(x, 4, 4, name="a"), name="ra")
        return net.conv(x, 4, 4, name="b")

    layers, outputs = blocks_of(build)
    assert layers == [["a"], ["b"]]
    assert outputs[0] == "ra"


def test_a_residual_block_is_one_block():
    def build(net, x):
        x = net.op("Relu", net.conv(x, 4, 4, name="stem"))
        y = net.op("Relu", net.conv(x, 4, 4, name="a"))
        x = net.op("Relu", net.op("Add", net.conv(y, 4, 4, name="b"), x), name="sum")
        y = net.op("Relu", net.conv(x, 4, 4, name="c"))
        x = net.op("Add", net.conv(y, 4, 4, name="d"), net.conv(x, 4, 4, 1, name="short"))
        return net.conv(net.op("Relu", x), 4, 4, name="last")

    layers, outputs = blocks_of(build)
    assert layers[:2] == [["stem"], ["a", "b"]]
    assert sorted(layers[2]) == ["c", "d", "short"] and layers[3] == ["last"]
    assert outputs[1] == "sum"


@pytest.mark.parametrize("residual", [False, True])
def test_a_depthwise_layer_goes_with_its_neighbours(residual):
    def build(net, x):
        for i in range(2):
            y = net.op("Relu", net.conv(x, 4, 8, 1, name=f"expand{i}"))
            y = net.op("Relu", net.conv(y, 8, 8, group=8, name=f"depth{i}"))
            y = net.conv(y, 8, 4, 1, name=f"project{i}")
            x = net.op("Add", x, y) if residual else y
        return net.conv(x, 4, 4, name="last")

    layers, _ = blocks_of(build)
    kinds = ("expand", "depth", "project")
    assert layers == [*([f"{kind}{i}" for kind in kinds] for i in (0, 1)), ["last"]]


def test_pooling_goes_with_the_layer_behind_it():
    def build(net, x):
        x = net.op("Relu", net.conv(x, 4, 4, name="a"))
        return net.dense(net.op("Flatten", net.op("GlobalAveragePool", x)), 4, 3, name="d")

    assert blocks_of(build)[0] == [["a"], ["d"]]
