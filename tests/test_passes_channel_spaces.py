"""Channels that may be put in any order."""

import numpy as np
import pytest
from allocation_tools import network, simplified
from networks import Net, interpret

from tvmquant.graph import Graph, const_value
from tvmquant.passes.channel_spaces import ChannelSpaces, is_dense, reorder


def layers(mod):
    return {v.name: v for v, value in Graph(mod).bindings if is_dense(value)}


def test_a_residual_stream_is_one_space_and_others_are_their_own():
    _, model = network()
    mod = simplified(model)
    spaces, found = ChannelSpaces(mod), layers(mod)
    stem, project, body = (spaces.space(found[n]) for n in ("stem", "project", "body"))
    assert stem.same_as(project) and stem.same_as(body)
    assert not spaces.space(found["expand"]).same_as(stem)
    free = {name for name, var in found.items() if spaces.is_free(var)}
    assert free == {"stem", "project", "body", "expand", "fc1"}


def test_any_order_computes_the_same():
    net, model = network()
    mod = simplified(model)
    spaces, rng = ChannelSpaces(mod), np.random.default_rng(0)
    orders = {}
    for var in layers(mod).values():
        if spaces.is_free(var):
            channels = int(var.ty.shape.values[-1])
            orders[spaces.space(var)] = rng.permutation(channels)
    other = reorder(mod, spaces, orders)
    weights = [
        [const_value(v.args[1]) for _, v in Graph(m).bindings if is_dense(v)] for m in (mod, other)
    ]
    assert not any(np.array_equal(a, b) for a, b in zip(*weights))
    for feeds in net.data(2):
        inputs = list(feeds.values())
        for got, want in zip(interpret(other, inputs), interpret(mod, inputs), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("between", ["output", "softmax", "transpose", "grouped", "concat"])
def test_channels_that_others_tell_apart_stay(between):
    net = Net()
    x = net.conv(net.input(1, 4, 6, 6), 4, 8, name="maker")
    outs = []
    if between == "output":
        outs.append(x)
    if between == "softmax":
        x = net.op("Softmax", x, axis=1)
    if between == "transpose":
        x = net.op("Reshape", x, np.array([1, 4, 12, 6]))
    if between == "grouped":
        x = net.conv(x, 8, 8, group=2)
    if between == "concat":
        x = net.op("Concat", x, x, axis=1)
    channels = {"transpose": 4, "concat": 16}.get(between, 8)
    mod = simplified(net.model(net.conv(x, channels, 8), *outs))
    assert not ChannelSpaces(mod).is_free(layers(mod)["maker"])


def test_nothing_to_do_is_nothing_done():
    _, model = network()
    mod = simplified(model)
    assert reorder(mod, ChannelSpaces(mod), {}) is mod
