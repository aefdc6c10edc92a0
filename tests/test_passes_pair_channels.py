"""Channels in an order in which vpmaddubsw is exact; the numbers stay the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Net, interpret, realized

import tvmquant
from tvmquant.graph import Graph, const_value
from tvmquant.ops import is_op
from tvmquant.passes.pair_channels import pair_channels, pairing
from tvmquant.passes.pipeline import wants_pairs
from tvmquant.schedules.linear import cannot_saturate
from tvmquant.targets import get_device

HOST = get_device("host")
NO_DOTS = ("avx512f", "avx512bw", "avx512vl", "avx512vnni", "avxvnni")


def layers(mod):
    """Weights of the dense convolutions, in order."""
    return [
        const_value(value.args[1])
        for _, value in Graph(mod).bindings
        if is_op(value, "tvmquant.conv2d") and int(value.attrs["groups"]) == 1
    ]


def inverted(middle=None, outputs=8):
    """Expand, depthwise, project: the order of the 48 channels in the middle is free."""
    net = Net(seed=3)
    x = net.op("Relu", net.conv(net.input(1, 8, 10, 10), 8, 48, 1, name="expand"))
    x = net.op("Relu", net.conv(x, 48, 48, group=48, name="depthwise"))
    outs = []
    if middle == "activation":
        x = net.op("HardSwish", x)
    if middle == "pooling":
        x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    if middle == "read twice":
        outs.append(net.conv(x, 48, 4, 1, name="other"))
    if middle == "residual":
        x = net.op("Add", x, net.conv(x, 48, 48, name="branch"))
    if middle == "output":
        outs.append(x)
    return net, [net.conv(x, 48, outputs, 1, name="project"), *outs]


@pytest.mark.parametrize("middle", [None, "activation", "pooling"])
def test_results_stay_and_the_layer_is_proven(middle):
    net, outs = inverted(middle)
    before = realized(net.model(*outs), net.data(2))
    mod = pair_channels(before.integers)
    assert not cannot_saturate(layers(before.integers)[-1])
    assert cannot_saturate(layers(mod)[-1])
    assert not np.array_equal(layers(mod)[0], layers(before.integers)[0])
    for feeds in net.data(2, seed=7):
        inputs = [feeds[i.name] for i in before.quantized.inputs]
        for got, want in zip(interpret(mod, inputs), interpret(before.integers, inputs)):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("middle", ["read twice", "residual", "output"])
def test_channels_that_others_read_keep_their_order(middle):
    net, outs = inverted(middle)
    before = realized(net.model(*outs), net.data(2)).integers
    mod = pair_channels(before)
    project = 1 if middle == "read twice" else -1
    np.testing.assert_array_equal(layers(mod)[0], layers(before)[0])
    np.testing.assert_array_equal(layers(mod)[project], layers(before)[project])


def test_layers_between_two_orders():
    net = Net(seed=5)
    x = net.op("Relu", net.conv(net.input(1, 4, 6, 6), 4, 32, 1))
    x = net.op("Relu", net.conv(x, 32, 32, 1))
    before = realized(net.model(net.conv(x, 32, 6, 1)), net.data(2))
    mod = pair_channels(before.integers)
    assert [cannot_saturate(w) for w in layers(mod)[1:]].count(True) >= 1
    feeds = net.data(1, seed=7)[0]
    inputs = [feeds[i.name] for i in before.quantized.inputs]
    for got, want in zip(interpret(mod, inputs), interpret(before.integers, inputs)):
        np.testing.assert_array_equal(got, want)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    outputs=st.integers(1, 12),
    half=st.integers(1, 30),
    taps=st.integers(1, 3),
)
def test_every_pairing_is_safe(seed, outputs, half, taps):
    rng = np.random.default_rng(seed)
    weight = np.clip(rng.laplace(0, 30, (outputs, taps, 2 * half)), -128, 127).astype(np.int8)
    order = pairing(weight)
    if order is not None:
        assert sorted(order) == list(range(2 * half))
        assert cannot_saturate(weight[..., order])


def test_pairing_finds_the_only_order():
    weight = np.zeros((1, 1, 1, 6), np.int8)
    weight[0, 0, 0] = [127, 127, 127, -127, 0, 1]
    assert not cannot_saturate(weight)
    assert cannot_saturate(weight[..., pairing(weight)])
    assert pairing(np.full((1, 1, 1, 4), 100, np.int8)) is None
    assert pairing(np.full((1, 1, 1, 3), 1, np.int8)) is None
    assert pairing(np.full((1, 1, 1, 4), 100, np.int8), x_bits=4) is not None


def test_devices_that_want_pairs():
    assert wants_pairs(get_device("host").without(*NO_DOTS)) == ("ssse3" in HOST.features)
    if HOST.isa.endswith("vnni"):
        assert not wants_pairs(HOST)


@pytest.mark.skipif("avx2" not in HOST.features, reason="the processor has no AVX2")
def test_compiled_network_equals_the_interpreter():
    net, outs = inverted()
    built = realized(net.model(*outs), net.data(2))
    compiled = tvmquant.compile(built.quantized, target=HOST.without(*NO_DOTS))
    kernels = {layer.name: layer.kernel for layer in compiled.manifest.layers}
    assert any("maddubs" in str(kernel) for kernel in kernels.values()), kernels
    built.compiled = compiled
    built.assert_exact(net.data(2, seed=9))
