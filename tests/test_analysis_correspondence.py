"""Layers and edges of the QDQ graph and what they stand for in the float one."""

import numpy as np
import pytest
from analysis_tools import data, network, recipe
from networks import Net

import tvmquant
from tvmquant.analysis.correspondence import Correspondence
from tvmquant.graph import Graph


def correspondence(model):
    return Correspondence(Graph(model.reference), Graph(model.mod))


@pytest.fixture(scope="module")
def quantized():
    corrected = recipe().with_corrections()
    return tvmquant.quantize(network(), calibration=data(), recipe=corrected)


def test_layers_and_edges_have_their_names(quantized):
    parts = correspondence(quantized)
    assert [layer.name for layer in parts.layers] == ["first", "middle", "third", "head"]
    for layer in parts.layers:
        (edge,) = layer.inputs
        assert edge.bits == 8
        assert edge.low <= 0 < edge.high == pytest.approx(edge.low + 255 * edge.scale)
        assert layer.weight.dtype == np.float32


def test_products_of_activations_have_two_inputs_and_no_weights():
    net = Net()
    a = net.dense(net.input(1, 4, 6), 6, 5)
    b = net.dense(net.input(1, 4, 6), 6, 5)
    product = net.op("MatMul", a, net.op("Transpose", b, perm=[0, 2, 1]), name="scores")
    model = net.model(net.op("MatMul", product, b, name="mixed"))
    parts = correspondence(tvmquant.quantize(model, calibration=net.data()))
    found = {layer.name: layer for layer in parts.layers}
    assert found["scores"].weight is None
    assert len(found["scores"].inputs) == 2


def test_a_layers_result_is_what_its_activation_function_gives(quantized):
    parts = correspondence(quantized)
    ends = {layer.name: parts.results[layer.reference] for layer in parts.layers}
    values = parts.reference.values
    assert str(values[ends["first"]].op.name) == "relax.nn.relu"
    assert all(parts.base(edge.floats) is edge.base for edge in parts.edges)
