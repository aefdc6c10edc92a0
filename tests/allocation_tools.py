"""A residual network whose channels need different bits, for the tests of bit allocation."""

import numpy as np
from networks import Net

from tvmquant.frontend import load_model
from tvmquant.passes.simplify import simplify


class Uneven(Net):
    """Weights of every output channel at a scale of its own."""

    def weight(self, *shape, scale=1.0):
        spread = np.exp(self.rng.standard_normal(shape[0]) * 1.2).reshape(
            -1, *[1] * (len(shape) - 1)
        )
        return self.constant((self.rng.standard_normal(shape) * scale * spread).astype(np.float32))


def network(head=True):
    """Stem, inverted residual, residual convolution, pooling, two matmuls."""
    net = Uneven(seed=5)
    x = net.op("Relu", net.conv(net.input(1, 4, 10, 10), 4, 16, name="stem"))
    y = net.op("Relu", net.conv(x, 16, 32, 1, name="expand"))
    y = net.op("Relu", net.conv(y, 32, 32, group=32, name="depthwise"))
    x = net.op("Add", net.conv(y, 32, 16, 1, name="project"), x)
    x = net.op("Add", net.op("Relu", net.conv(x, 16, 16, name="body")), x)
    x = net.op("HardSwish", net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]))
    outputs = [net.conv(x, 16, 32, 1, name="map")]
    if head:
        x = net.op("Flatten", net.op("GlobalAveragePool", x))
        outputs = [net.dense(net.dense(x, 16, 24, name="fc1"), 24, 16, name="fc2"), *outputs]
    return net, net.model(*outputs)


def simplified(model):
    return simplify(load_model(model).mod)
