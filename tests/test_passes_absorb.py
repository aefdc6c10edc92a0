"""Absorption of high biases."""

import numpy as np
from networks import Net, interpret

from tvmquant.frontend import load_model
from tvmquant.graph import Graph, const_value, name_of
from tvmquant.passes.absorb import absorb_biases, absorb_norms
from tvmquant.passes.batch_norms import ChannelNorm
from tvmquant.passes.simplify import simplify


def simplified(padded=False):
    net = Net()
    y = net.conv(net.input(1, 3, 5, 5), 3, 4, name="first")
    model = net.model(net.conv(net.op("Relu", y), 4, 2, 3 if padded else 1))
    for tensor in model.graph.initializer:
        if list(tensor.dims) == [4]:
            tensor.raw_data = np.array([30, 0.1, 40, -5], np.float32).tobytes()
    return net, simplify(load_model(model).mod)


def biases(mod):
    return [
        const_value(v.args[1]).reshape(-1) for _, v in Graph(mod).bindings if name_of(v) == "add"
    ]


def assert_moved(net, mod, out):
    for feeds in net.data(3):
        (want,), (got,) = (interpret(m, list(feeds.values())) for m in (mod, out))
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    before, after = biases(mod)[0], biases(out)[0]
    assert after[0] < 10 and after[2] < 15
    np.testing.assert_array_equal(after[[1, 3]], before[[1, 3]])
    assert not np.array_equal(biases(mod)[1], biases(out)[1])


def test_high_biases_move_on():
    net, mod = simplified()
    assert_moved(net, mod, absorb_biases(mod, [list(feeds.values()) for feeds in net.data(8)]))


def test_batch_norms_tell_as_well():
    net, mod = simplified()
    name = next(v.name for v, e in Graph(mod).bindings if name_of(e) == "add")
    norm = ChannelNorm(np.array([30, 0.1, 40, -5.0]), np.full(4, 1.5))
    out, norms = absorb_norms(mod, {name: norm})
    assert_moved(net, mod, out)
    np.testing.assert_allclose(norms[name].mean, [4.5, 0.1, 4.5, -5])
    np.testing.assert_array_equal(norms[name].std, norm.std)
    same, _ = absorb_norms(mod, {})
    np.testing.assert_array_equal(biases(same)[0], biases(mod)[0])


def test_zeros_of_a_padding_stay_zeros():
    net, mod = simplified(padded=True)
    out = absorb_biases(mod, [list(feeds.values()) for feeds in net.data(2)])
    np.testing.assert_array_equal(biases(out)[0], biases(mod)[0])
