"""tvmquant.frontend.onnx_model"""

import numpy as np
import onnx
import pytest
from frontend_tools import make_model, node
from onnx import TensorProto, helper

from tvmquant.errors import ModelError
from tvmquant.frontend.onnx_model import declared_inputs, graph_inputs, load_onnx, opset_of

X = np.zeros((1, 3), np.float32)


def test_missing_file(tmp_path):
    with pytest.raises(ModelError, match=r"absent\.onnx does not exist"):
        load_onnx(tmp_path / "absent.onnx")


def test_folder(tmp_path):
    with pytest.raises(ModelError, match="is a folder"):
        load_onnx(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x08\x07" * 40])
def test_file_that_is_not_onnx(tmp_path, content):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"bad\.onnx"):
        load_onnx(path)


def test_truncated_file(tmp_path):
    path = tmp_path / "cut.onnx"
    data = make_model([node("Relu", "x", name="r")], {"x": X}).SerializeToString()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match=r"cut\.onnx"):
        load_onnx(str(path))


def test_missing_external_data(tmp_path):
    model = make_model([node("Add", "x w")], {"x": X}, {"w": np.ones((64, 3), np.float32)})
    path = tmp_path / "big.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"big\.onnx.*weights\.bin"):
        load_onnx(path)


def test_old_ir_version():
    model = make_model([node("Relu", "x")], {"x": X})
    model.ir_version = 2
    with pytest.raises(ModelError, match="IR version 2"):
        load_onnx(model)


def test_nodes_get_names_and_the_argument_is_not_changed():
    model = make_model([node("Relu", "x", "a"), node("Relu", "a", name="last")], {"x": X})
    loaded = load_onnx(model)
    assert [n.name for n in loaded.graph.node] == ["a", "last"]
    assert model.graph.node[0].name == ""


def test_nodes_in_branches_get_names():
    branch = helper.make_graph(
        [node("Identity", "x", "inner")],
        "b",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    cond = node("If", "c", then_branch=branch, else_branch=branch, name="if")
    loaded = load_onnx(make_model([cond], {"x": X, "c": np.array(True)}))
    assert loaded.graph.node[0].attribute[0].g.node[0].name == "inner"


def test_local_functions_are_inlined():
    function = helper.make_function(
        "custom", "Twice", ["a"], ["b"], [node("Add", "a a", "b")], [helper.make_opsetid("", 17)]
    )
    model = make_model([node("Twice", "x", domain="custom")], {"x": X})
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("custom", 1))
    assert [n.op_type for n in load_onnx(model).graph.node] == ["Add"]


def test_weights_listed_as_inputs_are_not_fed():
    model = make_model([node("Add", "x w")], {"x": X, "w": X}, {"w": X})
    assert [value.name for value in graph_inputs(model.graph)] == ["x"]


def test_declared_inputs():
    model = make_model([node("Relu", "x")], {"x": X, "ids": np.zeros((2,), np.int64)})
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    model.graph.input.append(helper.make_tensor_value_info("q", TensorProto.INT4, [2]))
    found = [(i.name, i.shape, i.dtype) for i in declared_inputs(model)]
    assert found == [("x", (None, 3), "float32"), ("ids", (2,), "int64"), ("q", (2,), "int8")]
    assert opset_of(model) == 17
