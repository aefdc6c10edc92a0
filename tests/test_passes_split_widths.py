"""Layers of channels with different bits as integer layers, one a width."""

import numpy as np
import pytest
from allocation_tools import network

import tvmquant
from tvmquant.graph import Graph, name_of
from tvmquant.interpreter import Interpreter
from tvmquant.ops import is_op
from tvmquant.passes.pipeline import to_integers
from tvmquant.passes.realize import realize
from tvmquant.passes.split_widths import split_widths
from tvmquant.recipe import Recipe


def quantized(bits="w4a8", **changes):
    net, model = network()
    chosen = Recipe.for_bits(bits, **{"first_last_bits": None, "average_bits": 4.0, **changes})
    return net, tvmquant.quantize(model, recipe=chosen, calibration=net.data(4))


def names(mod):
    return [name_of(value) for _, value in Graph(mod).bindings]


def test_the_split_graph_means_the_same():
    net, model = quantized()
    whole = realize(model.mod, model.recipe)
    parts = split_widths(whole)
    assert names(parts).count("tvmquant.conv2d") > names(whole).count("tvmquant.conv2d")
    # Outputs of the network are gathered, all others lie in order.
    assert 1 <= names(parts).count("take") <= 2
    for feeds in net.data(2, seed=4):
        inputs = [feeds[info.name] for info in model.inputs]
        made = [Interpreter(mod).run(inputs) for mod in (parts, whole)]
        for got, want in zip(*made, strict=True):
            np.testing.assert_array_equal(got, want)
    layers = [v for _, v in Graph(parts).bindings if is_op(v, "tvmquant.conv2d", "tvmquant.matmul")]
    assert {int(v.attrs["w_bits"]) for v in layers} == {2, 4, 8}
    assert not any("channel_bits" in dict(v.attrs) for v in layers)


@pytest.mark.parametrize(
    ("bits", "changes"),
    [
        pytest.param("w4a8", {}, marks=pytest.mark.slow),
        ("w4a4", {"average_bits": 3.0, "share_bits": True}),
        ("w4a8", {"requantize": "fixed_point", "rounding": "gptq", "bias_correction": "empirical"}),
    ],
)
def test_the_compiled_model_equals_the_interpreter_bit_for_bit(bits, changes):
    net, model = quantized(bits, **changes)
    integers = to_integers(model.mod, model.recipe)
    compiled = tvmquant.compile(model)
    assert {layer.weight_bits for layer in compiled.layers if layer.macs} > {2, 4}
    for feeds in net.data(2, seed=4):
        wanted = Interpreter(integers).run([feeds[info.name] for info in model.inputs])
        for got, want in zip(compiled.run(feeds).values(), wanted, strict=True):
            np.testing.assert_array_equal(got, want)


def test_every_width_is_stored_at_its_own_size():
    def stored(average):
        _, model = quantized(average_bits=average)
        return sum(la.weight_bytes for la in tvmquant.compile(model).layers if la.macs)

    assert stored(3.0) < stored(4.0) < stored(8)


def test_other_layers_stay_as_they_are():
    _, model = quantized(average_bits=None)
    whole = realize(model.mod, model.recipe)
    assert names(split_widths(whole)) == names(whole)
