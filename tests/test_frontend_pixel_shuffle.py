"""tvmquant.frontend.pixel_shuffle: the same numbers, channels in another order."""

import numpy as np
import pytest
from networks import Net, run_onnx

from tvmquant.frontend.pixel_shuffle import reorder_pixel_shuffles


def network(mode="CRD", bias=True, group=1, shown=False):
    net = Net()
    y = net.conv(net.input(1, 4, 5, 6), 4, 12, bias=bias, group=group)
    shuffled = net.op("DepthToSpace", y, blocksize=2, mode=mode)
    outputs = [net.conv(shuffled, 3, 2)] + ([y] if shown else [])
    return net.model(*outputs), net.data(1)[0]


def mode_of(model):
    (node,) = (n for n in model.graph.node if n.op_type == "DepthToSpace")
    return next(a.s.decode() for a in node.attribute if a.name == "mode")


@pytest.mark.parametrize("bias", [True, False])
def test_the_numbers_stay(bias):
    model, feeds = network(bias=bias)
    changed = reorder_pixel_shuffles(model)
    assert mode_of(changed) == "DCR" and mode_of(model) == "CRD"
    np.testing.assert_allclose(run_onnx(changed, feeds)[0], run_onnx(model, feeds)[0], atol=1e-5)


@pytest.mark.parametrize("options", [{"mode": "DCR"}, {"group": 2}, {"shown": True}])
def test_what_cannot_be_reordered_stays(options):
    model, _ = network(**options)
    assert reorder_pixel_shuffles(model) == model


def test_shared_weights_stay():
    net = Net()
    weight = net.weight(12, 12, 3, 3, scale=0.1)
    y = net.conv(net.input(1, 4, 5, 6), 4, 12)
    for _ in range(2):
        y = net.op("Conv", y, weight, pads=[1] * 4)
    model = net.model(net.op("DepthToSpace", y, blocksize=2, mode="CRD"))
    assert mode_of(reorder_pixel_shuffles(model)) == "CRD"
