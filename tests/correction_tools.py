"""A small network at the QDQ waist and its samples, for the tests of corrections."""

import numpy as np
from networks import Net

from tvmquant.frontend import load_model
from tvmquant.passes.annotate import annotate
from tvmquant.passes.calibrate import calibrate
from tvmquant.passes.simplify import simplify
from tvmquant.recipe import Recipe


def network():
    """Convolutions of every kind and a matmul; correlated inputs, as real ones are."""
    net = Net()
    x = net.input(1, 6, 10, 10)
    y = net.op("Relu", net.conv(x, 6, 8))
    y = net.op("Relu", net.conv(y, 8, 8, group=8))
    y = net.op("Relu", net.conv(y, 8, 12, strides=[2, 2], group=2, bias=False))
    y = net.op("Add", net.conv(y, 12, 12, 1), y)
    y = net.op("Flatten", net.op("GlobalAveragePool", net.op("Relu", y)))
    return net, net.model(net.dense(y, 12, 5))


def prepared(bits, count=24, **changes):
    """Annotated graph, QDQ graph, samples and recipe."""
    _, model = network()
    recipe = Recipe.for_bits(bits, first_last_bits=None, **changes)
    mod = annotate(simplify(load_model(model).mod), recipe)
    return mod, calibrate(mod, samples(count), recipe), samples(count), recipe


def samples(count, seed=1):
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(7).standard_normal((6, 6))
    return [
        [np.einsum("oc,nchw->nohw", mix, rng.standard_normal((1, 6, 10, 10))).astype(np.float32)]
        for _ in range(count)
    ]
