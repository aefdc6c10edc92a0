"""What first layers tell about inputs."""

import numpy as np
import pytest
from batch_norm_tools import NormNet, pictures, residual
from networks import Net

from tvmquant.frontend import load_model
from tvmquant.graph import Graph
from tvmquant.passes.batch_norms import find_batch_norms
from tvmquant.passes.input_spread import input_spreads
from tvmquant.passes.simplify import simplify


def fitted(model):
    imported = load_model(model).mod
    found = input_spreads(Graph(simplify(imported)), find_batch_norms(imported))
    return list(found.values())


@pytest.mark.parametrize("scale", [1.0, 20.0])
@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_mean_and_deviation_of_smooth_pictures(scale, offset):
    net = NormNet(4)
    x = net.input(1, 3, 12, 12)
    model = net.model(net.batch_norm(net.conv(x, 3, 24, bias=False), 24))
    feeds = [{"x0": f["x0"] * scale} for f in pictures(48, offset=offset)]
    net.normalize(feeds)
    (spread,) = fitted(net.model(model.graph.output[0].name))
    values = np.concatenate([f["x0"].transpose(0, 2, 3, 1).reshape(-1, 3) for f in feeds])
    std = values.std()
    np.testing.assert_allclose(spread.mean, values.mean(0), atol=0.25 * std)
    assert 0.6 * std < np.sqrt(spread.variance).mean() < 1.7 * std
    outside = (values < spread.points[0]) | (values > spread.points[-1])
    assert outside.mean() < 1e-3
    assert spread.points.max() < 8 * np.abs(values).max()


def test_inputs_of_preprocessing_are_left_alone():
    net = NormNet(4)
    x = net.op("Mul", net.input(1, 3, 12, 12), np.float32([[[0.5]]] * 3))
    y = net.batch_norm(net.conv(x, 3, 8, bias=False), 8)
    net.normalize(pictures(8))
    mod = load_model(net.model(y)).mod
    graph = Graph(simplify(mod))
    found = input_spreads(graph, find_batch_norms(mod))
    assert len(found) == 1 and not any(param in found for param in graph.params)


def test_without_a_batch_norm_behind_it_nothing_is_known():
    net = Net()
    assert fitted(net.model(net.conv(net.input(1, 3, 8, 8), 3, 4))) == []
    assert len(fitted(residual()[1])) == 1
