"""tvmquant.frontend.importer and operators."""

import warnings

import numpy as np
import pytest
from frontend_tools import assert_same, bindings, make_model, node, run_tvm
from onnx import TensorProto, helper

from tvmquant.errors import ModelError, UnsupportedOperatorError
from tvmquant.frontend import load_model
from tvmquant.frontend.importer import from_onnx
from tvmquant.frontend.onnx_model import load_onnx

X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
TYPES = "FLOAT8E4M3FN", "FLOAT8E5M2"


def test_layer_names_survive_exactly():
    model = make_model(
        [
            node("Relu", "x", "a.b:0"),
            node("MatMul", "a.b:0 w", "m", name="/features/0.1/fc"),
            node("Sigmoid", "m", "s", name="same"),
            node("Tanh", "s", name="same"),
        ],
        {"x": X},
        {"w": np.ones((4, 5), np.float32)},
    )
    assert bindings(load_model(model).mod)[:4] == [
        ("a.b:0", "relax.nn.relu"),
        ("/features/0.1/fc", "relax.matmul"),
        ("same", "relax.sigmoid"),
        ("same", "relax.tanh"),
    ]


def test_all_unsupported_operators_are_listed():
    model = make_model(
        [
            node("LSTM", "x w r", "l", name="lstm_1", hidden_size=4),
            node("Strange", "x", "a", domain="my.domain", name="n1"),
            node("GRU", "x w r", "g", name="gru_1", hidden_size=4),
            node("Det", "x", "d", name="det_a"),
            node("Det", "x", name="det_b"),
        ],
        {"x": X},
        {"w": X, "r": X},
    )
    with pytest.raises(UnsupportedOperatorError) as caught:
        load_model(model)
    text = str(caught.value)
    for part in (
        "LSTM (node 'lstm_1')",
        "GRU (node 'gru_1')",
        "my.domain::Strange (node 'n1')",
        "Det (node 'det_a', 'det_b')",
        "come in a later version",
    ):
        assert part in text
    assert "\n" not in text


def test_recurrent_operators_are_named_before_shapes_are_asked_for():
    model = make_model(
        [node("RNN", "x w r", name="rnn", hidden_size=4)], {"x": X}, {"w": X, "r": X}
    )
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "length"
    with pytest.raises(UnsupportedOperatorError, match=r"RNN.*later version"):
        load_model(model)


def test_long_lists_are_cut():
    nodes = [node("Det", "x", f"d{i}", name=f"n{i}") for i in range(9)]
    with pytest.raises(UnsupportedOperatorError, match="'n4' and 4 more"):
        load_model(make_model(nodes, {"x": X}, outputs=("d0",)))


def _if_with_lstm(condition):
    def branch(name, inner):
        output = [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)]
        return helper.make_graph([inner], name, [], output)

    return node(
        "If", "c", name="if",
        then_branch=branch("t", node("LSTM", "x w rr", "r", name="hidden", hidden_size=4)),
        else_branch=branch("e", node("Relu", "x", "r", name="plain")),
    )  # fmt: skip


def test_unsupported_operators_in_branches():
    model = make_model([_if_with_lstm("c")], {"x": X, "c": np.array(True)}, {"w": X, "rr": X})
    with pytest.raises(UnsupportedOperatorError, match=r"LSTM.*hidden'"):
        load_model(model)


def test_branches_that_are_not_taken_are_not_refused():
    model = make_model([_if_with_lstm("c")], {"x": X}, {"c": np.array(False), "w": X, "rr": X})
    np.testing.assert_array_equal(run_tvm(model, {"x": X})[0], np.maximum(X, 0))


def test_loops_are_refused():
    body = helper.make_graph(
        [node("Identity", "i", "k", name="step")],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
    )
    nodes = [node("Loop", "n _", "u", body=body, name="loop"), node("Relu", "x")]
    model = make_model(nodes, {"x": X}, {"n": np.array(3)}, outputs=("y", "u"))
    with pytest.raises(UnsupportedOperatorError, match="Loop"):
        load_model(model)


@pytest.mark.parametrize("name", TYPES)
def test_types_are_refused_by_node(name):
    elem_type = getattr(TensorProto, name)
    nodes = [node("Cast", "x", "c", to=elem_type, name="down"), node("Cast", "c", to=1)]
    with pytest.raises(UnsupportedOperatorError, match=f"node 'down'.*{name.lower()}"):
        load_model(make_model(nodes, {"x": X}, opset=19))


def test_nothing_is_printed(capfd):
    model = make_model([node("Relu", "in.put:0", name="r")], {"in.put:0": X})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_model(model)
    assert loaded.inputs[0].name == "in.put:0"
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_conversion_errors_name_the_node(capfd):
    model = make_model([node("Squeeze", "x a", name="sq")], {"x": X}, {"a": np.array([1])})
    with pytest.raises(ModelError, match=r"cannot import node 'sq' \(Squeeze\): .") as caught:
        load_model(model)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().out == ""


def test_shapes_that_depend_on_data_are_refused():
    model = make_model([node("NonZero", "x", name="nz")], {"x": X}, output_types={"y": 7})
    with pytest.raises(ModelError, match=r"node 'nz' \(NonZero\) depends on the data"):
        load_model(model)


def test_several_outputs_constants_and_inputs_as_outputs():
    model = make_model(
        [
            node("Split", "x half", "a b", axis=2, name="split"),
            node("Identity", "k", "c"),
            node("Identity", "x", "d"),
        ],
        {"x": X},
        {"k": np.arange(3.0, dtype=np.float32), "half": np.array([1, 3])},
        outputs=("b", "a", "c", "d"),
    )
    assert load_model(model).output_names == ("b", "a", "c", "d")
    assert_same(model, {"x": X})


def test_single_output_that_is_constant():
    model = make_model([node("Add", "k k")], {"x": X}, {"k": np.ones(3, np.float32)})
    assert_same(model, {"x": X})


def test_integer_inputs():
    ids = np.array([[1, 2]], np.int64)
    model = make_model(
        [node("Gather", "t ids", "e"), node("Cast", "mask", "m", to=1), node("Mul", "e m")],
        {"ids": ids, "mask": np.ones((1, 2, 1), np.int64)},
        {"t": X[0]},
    )
    assert [i.dtype for i in load_model(model).inputs] == ["int64", "int64"]
    assert_same(model, {"ids": ids, "mask": np.ones((1, 2, 1), np.int64)})


def test_from_onnx_is_enough_for_a_static_model():
    mod = from_onnx(load_onnx(make_model([node("Relu", "x", name="r")], {"x": X})))
    assert bindings(mod)[0] == ("r", "relax.nn.relu")
