"""Ranges end where every reader is flat."""

from __future__ import annotations

import numpy as np
import pytest
from networks import Net, build, cosine, interpret, run_onnx

from tvmquant.frontend import load_model
from tvmquant.graph import Graph
from tvmquant.ops import is_op
from tvmquant.passes.annotate import annotate
from tvmquant.passes.flat_tails import trim_flat_tails
from tvmquant.passes.simplify import simplify
from tvmquant.recipe import Recipe


def trimmed(activation, low=-20.0, high=20.0, outputs=0):
    """Range of the tensor before ``activation`` in an annotated network."""
    net = Net()
    x = net.conv(net.input(1, 3, 6, 6), 3, 4, name="conv")
    y = net.conv(activation(net, x), 4, 2)
    mod = annotate(simplify(load_model(net.model(*[y, x][: 1 + outputs])).mod), Recipe())
    graph = Graph(mod)
    (var,) = [
        v
        for v, value in graph.bindings
        if is_op(value, "tvmquant.observe") and str(value.attrs["name"]).startswith("conv#1")
    ]
    return trim_flat_tails(graph, var, low, high)


def test_hardswish_is_flat_below_3():
    low, high = trimmed(lambda net, x: net.op("HardSwish", x))
    assert low == pytest.approx(-3, abs=0.1)
    assert high == pytest.approx(20, abs=0.1)  # half a step of the output may go


def test_sigmoid_is_flat_on_both_sides():
    low, high = trimmed(lambda net, x: net.op("Sigmoid", x))
    assert -7 < low < -5
    assert 5 < high < 7


def test_the_widest_of_several_readers_decides():
    def activation(net, x):
        slow = net.op("Tanh", net.op("Mul", x, np.float32(0.1)))
        return net.op("Add", net.op("HardSwish", x), slow)

    low, high = trimmed(activation)
    assert low < -12  # where the slow one is within half a step of its end, too
    assert high == pytest.approx(20, abs=0.1)


def test_nothing_flat_within_the_range():
    low, high = trimmed(lambda net, x: net.op("HardSwish", x), -1.0, 4.0)
    assert (low, high) == pytest.approx((-1, 4), abs=0.05)
    low, high = trimmed(lambda net, x: net.op("LeakyRelu", x, alpha=0.5))
    assert (low, high) == pytest.approx((-20, 20), abs=0.2)


def test_other_readers_need_the_whole_range():
    both = trimmed(lambda net, x: net.op("Mul", net.op("Sigmoid", x), net.conv(x, 4, 4)))
    assert both == (-20, 20)
    assert trimmed(lambda net, x: net.op("Sigmoid", x), outputs=1) == (-20, 20)


def test_degenerate_ranges():
    assert trimmed(lambda net, x: net.op("Sigmoid", x), 0.0, 0.0) == (0, 0)
    # All values where HardSwish is zero: one integer for -3 and below is enough.
    low, _ = trimmed(lambda net, x: net.op("HardSwish", x), -30.0, -10.0)
    assert low == pytest.approx(-3, abs=0.1)
    _, high = trimmed(lambda net, x: net.op("HardSwish", x), 5.0, 9.0)
    assert high == pytest.approx(9, abs=0.05)


@pytest.mark.parametrize("kind", ["HardSwish", "Sigmoid", "Tanh", "Softplus"])
def test_results_move_by_less_than_a_step(kind, monkeypatch):
    net = Net()
    x = net.op("Mul", net.conv(net.input(1, 3, 12, 12), 3, 8), np.float32(6))
    model, data = net.model(net.conv(net.op(kind, x), 8, 4)), net.data(3)
    trimmed_net = build(model, data)
    monkeypatch.setattr("tvmquant.passes.calibrate.trim_flat_tails", lambda g, v, *ends: ends)
    full = build(model, data)
    errors = []
    for built in (trimmed_net, full):
        built.assert_exact(data)
        got = np.stack([interpret(built.integers, feeds.values())[0] for feeds in data])
        want = np.stack([run_onnx(model, feeds)[0] for feeds in data])
        assert cosine(got, want) > 0.999
        errors.append(np.sqrt(np.mean((got - want) ** 2)) / np.ptp(want))
    assert errors[0] < errors[1] + 1 / 255
