"""Which edges are quantized, to how many bits, and which share their scale."""

from __future__ import annotations

import numpy as np
from networks import Net, assert_same_floats, operators

from tvmquant.frontend import load_model
from tvmquant.graph import Graph, name_of
from tvmquant.ops import is_op
from tvmquant.passes.annotate import annotate
from tvmquant.passes.simplify import simplify
from tvmquant.quant_spec import LayerRule, QuantSpec
from tvmquant.recipe import Recipe


class Annotated:
    """Observe nodes of an annotated network by name."""

    def __init__(self, net, *outputs, recipe=None):
        before = simplify(load_model(net.model(*outputs)).mod)
        self.mod = annotate(before, recipe or Recipe())
        self.graph = Graph(self.mod)
        self.edges, self.weights, self.groups = {}, {}, {}
        for _, value in self.graph.bindings:
            if is_op(value, "tvmquant.observe"):
                name = str(value.attrs["name"])
                self.edges[name] = int(value.attrs["bits"])
                self.groups[name] = str(value.attrs["group"])
            elif is_op(value, "tvmquant.observe_weight"):
                self.weights[str(value.attrs["name"])] = value.attrs
        for feeds in net.data(1):
            assert_same_floats(before, self.mod, list(feeds.values()), rtol=1e-6)

    def weight_bits(self):
        return {name: int(attrs["bits"]) for name, attrs in self.weights.items()}

    def observed_sources(self):
        """Operators whose results are observed."""
        return [
            name_of(self.graph.value(value.args[0]))
            for _, value in self.graph.bindings
            if is_op(value, "tvmquant.observe")
        ]


def three_layers():
    net = Net()
    y = net.op("Relu", net.conv(net.input(1, 3, 6, 6), 3, 4, name="a"), name="act_a")
    y = net.op("Relu", net.conv(y, 4, 4, name="b"), name="act_b")
    return net, net.conv(y, 4, 2, name="c")


def test_first_and_last_layers_stay_at_8_bits():
    found = Annotated(*three_layers(), recipe=Recipe.for_bits(4))
    assert found.weight_bits() == {"a": 8, "b": 4, "c": 8}
    assert found.edges == {"to_nhwc": 8, "act_a": 4, "act_b": 8}


def test_unless_the_recipe_says_otherwise():
    found = Annotated(*three_layers(), recipe=Recipe.for_bits("w2a4", first_last_bits=None))
    assert found.weight_bits() == {"a": 2, "b": 2, "c": 2}
    assert set(found.edges.values()) == {4}


def test_rules_for_single_layers():
    rules = (LayerRule("*", activation_bits=2), LayerRule("b", weight_bits=1, activation_bits=8))
    found = Annotated(*three_layers(), recipe=Recipe(layers=rules))
    assert found.weight_bits() == {"a": 8, "b": 1, "c": 8}
    assert found.edges == {"to_nhwc": 2, "act_a": 8, "act_b": 2}


def test_only_what_the_epilogue_cannot_do_is_observed_before_an_activation():
    found = Annotated(*three_layers())
    assert found.observed_sources() == ["permute_dims", "nn.relu", "nn.relu"]
    net = Net()
    y = net.op("HardSwish", net.conv(net.input(1, 3, 6, 6), 3, 4), name="act")
    found = Annotated(net, net.conv(y, 4, 2))
    assert found.observed_sources() == ["permute_dims", "add", "multiply"]


def test_readers_at_different_bits():
    """The wider reader decides; the narrower one gets a second, coarser form."""
    net = Net()
    x = net.op("Relu", net.conv(net.input(1, 3, 6, 6), 3, 4, name="a"), name="shared")
    y = net.op("Add", net.conv(x, 4, 4, name="wide"), net.conv(x, 4, 4, name="narrow"))
    rules = (LayerRule("narrow", activation_bits=2),)
    found = Annotated(net, net.conv(y, 4, 2), recipe=Recipe(layers=rules))
    assert found.edges["shared"] == 8
    assert found.edges["shared/2"] == 2
    (narrow,) = [
        v
        for _, v in found.graph.bindings
        if is_op(v, "tvmquant.observe") and str(v.attrs["name"]) == "shared/2"
    ]
    assert is_op(found.graph.value(narrow.args[0]), "tvmquant.observe")


def test_light_operators_compute_at_8_bits():
    net = Net()
    x = net.op("Relu", net.conv(net.input(1, 3, 6, 6), 3, 4), name="x")
    y = net.op("Add", x, net.conv(x, 4, 4, name="branch"), name="sum")
    found = Annotated(net, net.conv(y, 4, 2), recipe=Recipe.for_bits(4, first_last_bits=None))
    assert found.edges["x"] == 8  # the sum reads it, too
    assert found.edges["x/4"] == 4
    assert found.edges["sum"] == 4


def test_moved_tensors_share_their_scale():
    net = Net()
    x = net.op("Relu", net.conv(net.input(1, 3, 6, 6), 3, 4), name="x")
    pooled = net.op("MaxPool", net.conv(x, 4, 4, name="b"), kernel_shape=[3, 3], strides=[1, 1])
    cropped = net.op("Slice", x, np.array([1, 1]), np.array([5, 5]), np.array([2, 3]))
    y = net.op("Concat", pooled, cropped, axis=1, name="join")
    found = Annotated(net, net.conv(y, 8, 2))
    joined = {found.groups[name] for name in found.groups if name != "to_nhwc"}
    assert len(joined) == 1
    assert joined != {""}
    assert found.groups["to_nhwc"] == ""
    assert len([g for g in found.groups.values() if g]) >= 4


def test_float_readers_of_float_results_read_them_raw():
    """A softmax between layers reads the layer's float result: nothing is rounded for it."""
    net = Net()
    y = net.op("Softmax", net.conv(net.input(1, 3, 6, 6), 3, 4), axis=1, name="soft")
    found = Annotated(net, net.conv(y, 4, 2))
    assert set(found.edges) == {"to_nhwc", "soft"}


def test_outputs_are_not_quantized():
    net = Net()
    y = net.conv(net.input(1, 3, 6, 6), 3, 4)
    found = Annotated(net, net.op("Relu", y))
    assert set(found.edges) == {"to_nhwc"}


def test_both_operands_of_a_matmul():
    net = Net()
    x = net.input(2, 5, 8)
    y = net.op("MatMul", net.dense(x, 8, 5, name="q"), net.dense(x, 8, 8, name="k"))
    found = Annotated(net, y, recipe=Recipe.for_bits(4))
    assert found.edges == {"x0": 8, "add1": 4, "add3": 4}


def test_estimators_and_granularity_of_the_recipe():
    recipe = Recipe(
        weights=QuantSpec(symmetric=True, granularity="per_tensor", estimator="mse"),
        activations=QuantSpec(symmetric=True, estimator="minmax"),
    )
    found = Annotated(*three_layers(), recipe=recipe)
    assert {str(a["granularity"]) for a in found.weights.values()} == {"per_tensor"}
    assert {str(a["estimator"]) for a in found.weights.values()} == {"mse"}
    for _, value in found.graph.bindings:
        if is_op(value, "tvmquant.observe"):
            assert str(value.attrs["estimator"]) == "minmax"
            assert bool(value.attrs["symmetric"])


def test_the_channel_axis_of_weights():
    net = Net()
    y = net.op("Flatten", net.conv(net.input(1, 3, 2, 2), 3, 4, name="conv"))
    found = Annotated(net, net.dense(y, 16, 5, name="dense"))
    assert {name: int(a["axis"]) for name, a in found.weights.items()} == {"conv": 0, "dense": 1}
    assert operators(found.mod).count("tvmquant.observe_weight") == 2
