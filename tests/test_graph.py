"""The straight-line view of a function, and rewriting it."""

from __future__ import annotations

import numpy as np
import pytest
from networks import interpret
from run_relax import build_module, const
from tvm import relax

from tvmquant.graph import (
    Builder,
    Graph,
    const_value,
    is_const,
    name_of,
    operands,
    rewrite,
    substitute,
)

op = relax.op
X = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)


def body(emit, x):
    a = emit(op.nn.relu(x), "a")
    parts = emit(op.split(a, 2, 1), "parts")
    b = emit(relax.TupleGetItem(parts, 1), "b")
    c = emit(op.concat([b, b], 1), "c")
    return relax.Tuple([emit(op.add(a, c), "d"), a])


@pytest.fixture
def mod():
    return build_module([X], body)


def test_bindings_users_and_outputs(mod):
    graph = Graph(mod)
    assert [v.name for v, _ in graph.bindings] == ["a", "parts", "b", "c", "d"]
    assert graph.is_tuple
    assert [v.name for v in graph.outputs] == ["d", "a"]
    by_name = {v.name: v for v, _ in graph.bindings}
    assert [u.name for u in graph.users[by_name["a"]]] == ["parts", "d"]
    assert [u.name for u in graph.users[by_name["b"]]] == ["c", "c"]
    assert graph.num_uses(by_name["a"]) == 3
    assert graph.num_uses(by_name["d"]) == 1
    assert graph.num_uses(graph.params[0]) == 1
    assert name_of(graph.value(by_name["c"])) == "concat"
    assert graph.value(graph.params[0]) is graph.params[0]


def test_types_of_tuple_operators_are_kept(mod):
    """Without its type a concatenation would not be recognised as one of float tensors."""
    for _, value in Graph(mod).bindings:
        assert value.ty is not None


def test_aliases_are_looked_through():
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([2, 4], "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            y = bb.emit(op.nn.relu(x), "y")
            bb.emit_normalized(relax.VarBinding(alias := relax.DataflowVar("z", y.ty), y))
            out = bb.emit_output(op.add(alias, alias))
        bb.emit_func_output(out)
    graph = Graph(bb.get())
    assert [name_of(value) for _, value in graph.bindings] == ["nn.relu", "add"]
    assert {v.name for v in operands(graph.bindings[-1][1])} == {"y"}


def test_rewriting_nothing_changes_nothing(mod):
    out = rewrite(mod, lambda builder, var, value: None)
    assert [v.name for v, _ in Graph(out).bindings] == ["a", "parts", "b", "c", "d"]
    for got, want in zip(interpret(out, [X]), interpret(mod, [X])):
        np.testing.assert_array_equal(got, want)


def test_rewriting_keeps_names_and_removes_the_dead(mod):
    def replace_add(builder, var, value):
        return op.negative(value.args[0]) if name_of(value) == "add" else None

    out = rewrite(mod, replace_add)
    assert [v.name for v, _ in Graph(out).bindings] == ["a", "d"]
    relu = np.maximum(X, 0)
    np.testing.assert_array_equal(interpret(out, [X])[0], -relu)


def test_names_are_unique_unless_superseded():
    builder = Builder()
    with builder.bb.function("main", [x := relax.Var("x", relax.TensorType([2], "float32"))]):
        with builder.bb.dataflow():
            names = [builder.emit(op.nn.relu(x), "y").name for _ in range(3)]
            names.append(builder.emit(op.abs(x), "y", supersede=True).name)
            assert builder.emit(x, "other") is x
            out = builder.bb.emit_output(x)
        builder.bb.emit_func_output(out)
    assert names == ["y", "y#1", "y#2", "y"]


def test_uses_count_for_the_replacement(mod):
    seen = {}

    def visit(builder, var, value):
        seen[var.name] = builder.uses.get(value.args[0], 0) if name_of(value) == "split" else None
        return op.tanh(value.args[0]) if name_of(value) == "nn.relu" else None

    rewrite(mod, visit)
    assert seen["parts"] == 3


def test_outputs_can_be_finished(mod):
    out = rewrite(mod, lambda *_: None, finish=lambda builder, e: builder.emit(op.abs(e), "end"))
    for got, want in zip(interpret(out, [X]), interpret(mod, [X])):
        np.testing.assert_array_equal(got, np.abs(want))


def test_constants_and_parameters_as_outputs():
    mod = build_module([X], lambda emit, x: relax.Tuple([x, const(np.ones(3, np.float32))]))
    out = rewrite(mod, lambda *_: None)
    got = interpret(out, [X])
    np.testing.assert_array_equal(got[0], X)
    np.testing.assert_array_equal(got[1], 1)


def test_substitute():
    x, y = (relax.Var(n, relax.TensorType([2], "float32")) for n in "xy")
    call = op.concat([x, x])
    assert substitute(call, {}) is call
    assert substitute(call, {y: x}) is call
    assert {v.name for v in operands(substitute(call, {x: y}))} == {"y"}
    item = relax.TupleGetItem(relax.Tuple([x, y]), 1)
    assert [v.name for v in operands(item)] == ["x", "y"]


def test_constants():
    constant = const(np.float32(2))
    assert is_const(constant)
    assert const_value(constant) == 2
    assert const_value(relax.Var("x", relax.TensorType([], "float32"))) is None
    assert name_of(constant) is None
