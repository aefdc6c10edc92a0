"""Average bits become widths of channels."""

import numpy as np
import pytest
from allocation_tools import network, simplified
from networks import interpret

import tvmquant
from tvmquant.graph import Graph
from tvmquant.ops import is_op
from tvmquant.ops.waist import channel_bits
from tvmquant.passes.allocate_bits import allocate_bits
from tvmquant.quant_spec import LayerRule
from tvmquant.recipe import Recipe


def recipe(average, **changes):
    changes = {"first_last_bits": None, **changes}
    return Recipe.for_bits("w4a8", average_bits=average, **changes)


def samples(net, count=4):
    return [list(feeds.values()) for feeds in net.data(count)]


def allocated(average, data=True, **changes):
    net, model = network()
    mod = simplified(model)
    new, widths = allocate_bits(mod, recipe(average, **changes), samples(net) if data else ())
    return net, mod, new, widths


@pytest.mark.parametrize("average", [2, 3.0, 4.0, 5.5, 8])
@pytest.mark.parametrize("data", [True, False])
def test_every_layer_keeps_to_the_budget(average, data):
    _, _, _, widths = allocated(average, data)
    assert set(widths) == {"stem", "expand", "depthwise", "project", "body", "map", "fc1", "fc2"}
    for name, bits in widths.items():
        assert set(bits) <= {2, 4, 8}
        if name != "depthwise":
            assert bits.mean() <= average
    assert np.all(widths["depthwise"] == {2: 2, 3: 4, 4: 4, 5.5: 4, 8: 8}[average])


def test_the_network_stays_the_same_and_widths_lie_together():
    net, mod, new, widths = allocated(4.0)
    for inputs in samples(net, 2):
        for got, want in zip(interpret(new, inputs), interpret(mod, inputs), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    mixed = {name for name, bits in widths.items() if len(set(bits)) > 1}
    assert len(mixed) >= 4
    for name in mixed - {"fc2", "map"}:
        assert np.all(np.diff(widths[name]) <= 0)
    # The order of outputs is the caller's.
    assert any(np.any(np.diff(widths[name]) > 0) for name in mixed & {"fc2", "map"})


def test_a_shared_budget_moves_bits_between_layers():
    _, mod, _, widths = allocated(4.0, share_bits=True)
    sizes = {
        v.name: int(np.prod(value.args[1].ty.shape.values))
        for v, value in Graph(mod).bindings
        if v.name in widths
    }
    names = [name for name in widths if name != "depthwise"]
    used = sum(widths[n].mean() * sizes[n] for n in names)
    assert used <= 4.0 * sum(sizes[n] for n in names)
    assert len({widths[n].mean() for n in names}) > 1


def test_bits_of_their_own_are_left_alone():
    rules = (LayerRule("body", weight_bits=2), LayerRule("map", quantize=False))
    _, _, _, widths = allocated(3.0, layers=rules)
    assert not set(widths) & {"body", "map"}
    _, _, _, widths = allocated(3.0, first_last_bits=8)
    assert not set(widths) & {"stem", "map", "fc2"}


@pytest.mark.parametrize("average", [3.0, 4.0])
def test_less_is_lost_than_at_one_width(average):
    net, model = network()
    data, unseen = net.data(8), net.data(4, seed=9)
    plain = Recipe.for_bits("w4a8" if average == 4 else "w2a8", first_last_bits=None)
    losses = []
    for chosen in (plain, recipe(average)):
        quantized = tvmquant.quantize(model, recipe=chosen, calibration=data)
        loss = []
        for feeds in unseen:
            inputs = [feeds[info.name] for info in quantized.inputs]
            exact = interpret(simplified(model), inputs)
            made = interpret(quantized.mod, inputs)
            loss += [np.sum((a - b) ** 2) / np.sum(b**2) for a, b in zip(made, exact)]
        losses.append(np.sum(loss))
    assert losses[1] < losses[0]


def test_weights_hold_what_their_widths_allow_after_rounding_by_effect():
    net, model = network()
    chosen = recipe(4.0, rounding="gptq", bias_correction="empirical")
    mod = tvmquant.quantize(model, recipe=chosen, calibration=net.data(4)).mod
    seen = 0
    for _, value in Graph(mod).bindings:
        if is_op(value, "tvmquant.dequantize") and channel_bits(value):
            q = np.moveaxis(value.args[0].value.numpy(), int(value.attrs["axis"]), 0)
            half = 2 ** (np.array(channel_bits(value)) - 1)
            rows = q.reshape(len(half), -1)
            assert np.all(rows.min(1) >= -half) and np.all(rows.max(1) < half)
            assert int(value.attrs["bits"]) == max(channel_bits(value))
            seen += 1
    assert seen >= 4
