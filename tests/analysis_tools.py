"""A small network with one layer that few bits destroy, for the tests of the analysis."""

import numpy as np
from networks import Net, run_onnx

from tvmquant.recipe import Recipe

PLANTED = "middle"


def network(factor=25.0):
    """Three convolutions and a matmul; ``middle`` has weights ``factor`` times wider than usual.

    They meet a channel that is as much smaller, so they hardly matter but for the scales.
    """
    net = Net(seed=3)
    y = net.op("Relu", net.conv(net.input(1, 3, 6, 6, name="image"), 3, 6, name="first"))
    y = net.op("Relu", net.conv(y, 6, 6, name=PLANTED))
    y = net.op("Relu", net.conv(y, 6, 8, name="third"))
    y = net.op("Flatten", net.op("GlobalAveragePool", y))
    model = net.model(net.dense(y, 8, 5, name="head"))
    constants = {node.name: node.input for node in model.graph.node if node.op_type == "Conv"}
    weight, bias = (np.array(net.constants[name]) for name in constants["first"][1:])
    weight[0] /= factor
    bias[0] /= factor
    net.constants.update(zip(constants["first"][1:], (weight, bias)))
    wide = np.array(net.constants[constants[PLANTED][1]])
    wide[:, 0] *= factor
    net.constants[constants[PLANTED][1]] = wide
    # Without the mean, which would decide alone, every class is found.
    (output,) = model.graph.output
    (bias,) = (node.input[1] for node in model.graph.node if node.output[0] == output.name)
    model = net.model(output.name)
    logits = [run_onnx(model, {"image": sample[None]})[0] for sample in data(32, seed=9)]
    net.constants[bias] = net.constants[bias] - np.mean(logits, (0, 1)).astype(np.float32)
    return net.model(output.name)


def data(count=8, seed=1):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, 3, 6, 6)).astype(np.float32)


def labels(model, x):
    """What the float network says."""
    return np.array([run_onnx(model, {"image": sample[None]})[0].argmax() for sample in x])


def recipe(bits="w4a8", **changes):
    return Recipe.for_bits(bits, first_last_bits=None, **changes)
