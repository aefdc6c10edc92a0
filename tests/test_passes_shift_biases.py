"""Constants added to the outputs of layers."""

import numpy as np
from networks import Net, interpret, operators

from tvmquant.frontend import load_model
from tvmquant.graph import Graph, name_of
from tvmquant.passes.shift_biases import shift_biases
from tvmquant.passes.simplify import simplify


def test_a_bias_takes_the_shift_and_a_layer_without_one_gets_one():
    net = Net()
    y = net.conv(net.input(1, 3, 5, 5), 3, 4)
    model = net.model(y, net.conv(y, 4, 2, bias=False))
    mod = simplify(load_model(model).mod)
    layers = [var.name for var, value in Graph(mod).bindings if name_of(value) == "nn.conv2d"]
    feeds = list(net.data(1)[0].values())
    before = interpret(mod, feeds)

    shift = np.array([1.0, -2.0, 0.0, 3.0], np.float32)
    biased = shift_biases(mod, {layers[0]: shift})
    np.testing.assert_allclose(
        interpret(biased, feeds)[0], before[0] + shift.reshape(-1, 1, 1), rtol=1e-5, atol=1e-5
    )
    assert operators(biased) == operators(mod)

    bare = shift_biases(mod, {layers[1]: shift[:2], "nothing": shift})
    np.testing.assert_allclose(
        interpret(bare, feeds)[1], before[1] + shift[:2].reshape(-1, 1, 1), rtol=1e-5, atol=1e-5
    )
    assert operators(bare).count("add") == operators(mod).count("add") + 1
