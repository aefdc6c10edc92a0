"""tvmquant.frontend.control_flow, through folding and import."""

import numpy as np
import pytest
from frontend_tools import assert_same, make_model, node, op_types
from onnx import TensorProto, helper, numpy_helper

from tvmquant.frontend.fold import fold_constants

X = np.array([[-1.0, 2.0, 3.0]], np.float32)


def branch(name, op, outputs=("r",), inner=None):
    """``r = op(x, k)`` with its own constant; both branches use the same names."""
    nodes = [node(op, "x k", "r", name=f"{name}_{op}")]
    if inner is not None:
        nodes = [inner]
    return helper.make_graph(
        nodes,
        name,
        [],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, None) for out in outputs],
        [numpy_helper.from_array(np.float32(10), "k")],
    )


def if_model(condition, constant):
    cond = node(
        "If", "c", name="if", then_branch=branch("t", "Add"), else_branch=branch("e", "Mul")
    )
    relu = node("Relu", "y", "z", name="after")
    value = np.array(condition)
    inputs = {"x": X} if constant else {"x": X, "c": value}
    constants = {"c": value} if constant else {}
    return make_model([cond, relu], inputs, constants, outputs=("y", "z"))


@pytest.mark.parametrize("condition", [True, False])
def test_known_condition_takes_its_branch(condition):
    model = if_model(condition, constant=True)
    folded = fold_constants(model)
    assert op_types(folded) == ["Add" if condition else "Mul", "Identity", "Relu"]
    assert folded.graph.node[0].name == ("t_Add" if condition else "e_Mul")
    assert_same(model, {"x": X})


@pytest.mark.parametrize("condition", [True, False])
def test_unknown_condition_selects(condition):
    model = if_model(condition, constant=False)
    assert op_types(fold_constants(model)) == ["Add", "Mul", "Where", "Relu"]
    assert_same(model, {"x": X, "c": np.array(condition)})


def test_condition_on_a_static_shape():
    """What exporters write for ``squeeze`` without an axis."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n"),
        node("Equal", "n one", "c"),
        node("If", "c", then_branch=branch("t", "Add"), else_branch=branch("e", "Mul")),
    ]
    model = make_model(nodes, {"x": X}, {"zero": np.array(0), "one": np.array(1)})
    assert op_types(fold_constants(model)) == ["Add", "Identity"]


def test_nested_branches():
    inner = node("If", "d", "r", then_branch=branch("tt", "Sub"), else_branch=branch("te", "Div"))
    outer = node(
        "If", "c", then_branch=branch("t", "", inner=inner), else_branch=branch("e", "Mul")
    )
    inputs = {"x": X, "c": np.array(True), "d": np.array(False)}
    model = make_model([outer], inputs)
    assert_same(model, inputs)
    assert_same(model, {**inputs, "d": np.array(True)})
    assert_same(model, {**inputs, "c": np.array(False)})
