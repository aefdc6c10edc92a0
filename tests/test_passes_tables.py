"""Cones: which operators belong to one, and what they evaluate to."""

from __future__ import annotations

import numpy as np
from run_relax import build_module, const
from tvm import relax

from tvmquant.graph import Graph
from tvmquant.passes.tables import find_cone

op = relax.op
X = np.zeros((2, 3, 4), np.float32)
VALUES = np.linspace(-4, 4, 33, dtype=np.float32)


def cone_of(body, stops=("x0",)):
    graph = Graph(build_module([X], body))
    found = {v for v, _ in graph.bindings if v.name in stops} | {
        p for p in graph.params if p.name in stops
    }
    return find_cone(graph, found, graph.outputs[0])


def test_a_diamond():
    def body(emit, x):
        y = emit(op.clip(emit(op.add(x, const(np.float32(3)))), 0, 6))
        return op.divide(emit(op.multiply(x, y)), const(np.float32(6)))

    cone = cone_of(body)
    assert [call.op.name.split(".")[-1] for _, call in cone.calls] == [
        "add",
        "clip",
        "multiply",
        "divide",
    ]
    want = VALUES * np.clip(VALUES + 3, 0, 6) / 6
    np.testing.assert_allclose(cone.evaluate(VALUES), want[:, None], rtol=1e-6, atol=1e-7)


def test_constants_by_channel():
    scale = np.arange(1, 5, dtype=np.float32)
    cone = cone_of(lambda emit, x: op.multiply(emit(op.abs(x)), const(scale)))
    np.testing.assert_allclose(cone.evaluate(VALUES), np.abs(VALUES)[:, None] * scale)


def test_slopes_and_conditions():
    slope = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    cone = cone_of(lambda emit, x: op.nn.prelu(x, const(slope), 2))
    want = np.where(VALUES[:, None] > 0, VALUES[:, None], VALUES[:, None] * slope)
    np.testing.assert_allclose(cone.evaluate(VALUES), want)

    def body(emit, x):
        big = emit(op.greater(x, const(np.float32(1))))
        return op.where(big, emit(op.square(x)), emit(op.astype(big, "float32")))

    want = np.where(VALUES > 1, VALUES**2, 0)
    np.testing.assert_allclose(cone_of(body).evaluate(VALUES), want[:, None])


def test_infinities_are_results():
    result = cone_of(lambda emit, x: op.log(x)).evaluate(np.array([0, 1], np.float32))
    assert result[0] == -np.inf


def test_cones_end_at_the_stop():
    def body(emit, x):
        return op.exp(emit(op.tanh(x), "stop"))

    assert len(cone_of(body, ("stop",)).calls) == 1
    assert len(cone_of(body).calls) == 2
    assert cone_of(body, ("stop", "x0")).root.name == "stop"


def test_no_cone():
    assert cone_of(lambda emit, x: op.tanh(x), ()) is None
    assert cone_of(lambda emit, x: op.add(x, emit(op.mean(x, [2], True)))) is None
    assert cone_of(lambda emit, x: op.exp(emit(op.reshape(x, [6, 4])))) is None
    full = const(np.ones((2, 3, 4), np.float32))
    assert cone_of(lambda emit, x: op.multiply(x, full)) is None
    assert cone_of(lambda emit, x: op.nn.softmax(x)) is None


def test_equal_slopes_are_one_table():
    def prelu(slopes):
        return cone_of(lambda emit, x: op.nn.prelu(x, const(np.array(slopes, np.float32)), 2))

    assert prelu([0.5] * 4).evaluate(VALUES).shape == (33, 1)
    assert prelu([0.5, 0.5, 0.5, 1]).evaluate(VALUES).shape == (33, 4)
