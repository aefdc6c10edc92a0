"""Manifests say how every edge is quantized."""

import json

import numpy as np
import onnx
import pytest

import tvmquant
from tvmquant.edges import describe_edges
from tvmquant.runtime.manifest import EdgeInfo, Manifest

WEIGHT = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype("float32")
X = np.random.default_rng(1).uniform(-1, 1, (1, 3, 8, 8)).astype("float32")


@pytest.fixture(scope="module")
def model():
    info = onnx.helper.make_tensor_value_info
    nodes = [onnx.helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1] * 4)]
    graph = onnx.helper.make_graph(
        nodes,
        "one",
        [info("x", 1, X.shape)],
        [info("y", 1, [1, 8, 8, 8])],
        [onnx.numpy_helper.from_array(WEIGHT, "w")],
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )


def test_activations_and_weights(model):
    recipe = {"weights": {"estimator": "minmax"}, "activations": {"estimator": "minmax"}}
    quantized = tvmquant.quantize(
        model, calibration=[{"x": X}], recipe=tvmquant.Recipe.from_json(json.dumps(recipe))
    )
    activation, weight = sorted(describe_edges(quantized.mod), key=lambda edge: edge.kind)
    assert (activation.kind, activation.bits, activation.scales) == ("activation", 8, 1)
    assert activation.shape == (1, 8, 8, 3) and activation.axis is None
    (scale, same), (zero, _) = activation.scale, activation.zero_point
    assert scale == same == pytest.approx((X.max() - X.min()) / 255, rel=1e-3)
    assert zero == pytest.approx(-X.min() / scale, abs=1)
    least, most = WEIGHT.min(axis=(1, 2, 3)), WEIGHT.max(axis=(1, 2, 3))
    scales = np.maximum(most / 127, -least / 128)
    assert (weight.kind, weight.bits, weight.scales, weight.axis) == ("weight", 8, 8, 0)
    assert weight.shape == (8, 3, 3, 3) and weight.zero_point == (0, 0)
    assert weight.scale == pytest.approx((scales.min(), scales.max()))


def test_the_manifest_keeps_them(model):
    manifest = tvmquant.compile(model, calibration=[{"x": X}]).manifest
    assert [edge.bits for edge in manifest.edges] == [8, 8]
    read = Manifest.from_dict(json.loads(json.dumps(manifest.to_dict())))
    assert read.edges == manifest.edges
    assert all(isinstance(edge, EdgeInfo) for edge in read.edges)


def test_manifests_from_before_have_none(model):
    data = tvmquant.compile(model, calibration=[{"x": X}]).manifest.to_dict()
    del data["edges"]
    assert Manifest.from_dict(data).edges == ()
