"""tvmquant.frontend.fold"""

import numpy as np
import pytest
from frontend_tools import constants_of, low_bit, make_model, node, op_types
from onnx import TensorProto

from tvmquant.errors import ModelError
from tvmquant.frontend.fold import fold_constants

X = np.zeros((2, 3, 4), np.float32)


def i64(*values):
    return np.array(values, np.int64)


def test_shape_computation_becomes_a_constant():
    model = make_model(
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "n", axis=0),
            node("Unsqueeze", "n axes", "n1"),
            node("Concat", "n1 minus", "target", axis=0),
            node("Reshape", "x target", name="flat"),
        ],
        {"x": X},
        {"zero": np.array(0), "axes": i64(0), "minus": i64(-1)},
    )
    folded = fold_constants(model)
    assert op_types(folded) == ["Reshape"]
    assert folded.graph.node[0].name == "flat"
    constants = constants_of(folded)
    assert list(constants) == ["target"]
    np.testing.assert_array_equal(constants["target"], [2, -1])
    assert [d.dim_value for d in folded.graph.output[0].type.tensor_type.shape.dim] == [2, 12]


def test_shape_after_a_computed_reshape():
    """One walk suffices although the second shape depends on the first."""
    model = make_model(
        [
            node("Reshape", "x first", "a"),
            node("Shape", "a", "s", start=1),
            node("ConstantOfShape", "s", "zeros"),
            node("Add", "a zeros"),
        ],
        {"x": X},
        {"first": i64(4, 6)},
    )
    folded = fold_constants(model)
    assert op_types(folded) == ["Reshape", "Add"]
    assert constants_of(folded)["zeros"].shape == (6,)


def test_size_and_shape_range():
    model = make_model(
        [node("Size", "x", "n"), node("Shape", "x", "s", start=-2, end=-1)],
        {"x": X},
        outputs=("n", "s"),
        output_types={"n": TensorProto.INT64, "s": TensorProto.INT64},
    )
    constants = constants_of(fold_constants(model))
    assert constants["n"] == 24
    np.testing.assert_array_equal(constants["s"], [3])


def test_computed_clip_bounds():
    model = make_model(
        [node("Cast", "six", "high", to=1), node("Clip", "x low high")],
        {"x": X},
        {"six": np.array(6), "low": np.float32(0)},
    )
    folded = fold_constants(model)
    assert op_types(folded) == ["Clip"]
    assert constants_of(folded)["high"] == np.float32(6)


@pytest.mark.parametrize(
    "attributes", [{"value_float": 2.0}, {"value_floats": [2.0, 2.0, 2.0, 2.0]}]
)
def test_constant_nodes(attributes):
    model = make_model([node("Constant", "", "c", **attributes), node("Add", "x c")], {"x": X})
    folded = fold_constants(model)
    assert op_types(folded) == ["Add"]
    assert (constants_of(folded)["c"] == 2).all()


def test_dequantized_weights_stay():
    model = make_model(
        [node("DequantizeLinear", "q s", "w", axis=0), node("MatMul", "x w")],
        {"x": X},
        {"q": np.ones((4, 5), np.int8), "s": np.ones(4, np.float32)},
    )
    folded = fold_constants(model)
    assert op_types(folded) == ["DequantizeLinear", "MatMul"]
    assert constants_of(folded)["q"].dtype == np.int8


@pytest.mark.parametrize("name", ["INT8", "INT4", "UINT4", "INT2", "UINT2"])
def test_quantized_constants_become_integers(name):
    """Fake-quantized weights of training frameworks: Q and DQ around a float constant."""
    elem_type = getattr(TensorProto, name)
    model = make_model(
        [
            node("QuantizeLinear", "w s z", "q"),
            node("DequantizeLinear", "q s z", "f"),
            node("MatMul", "x f"),
        ],
        {"x": X},
        {
            "w": np.linspace(-2, 2, 20, dtype=np.float32).reshape(4, 5),
            "s": np.float32(0.5),
            "z": low_bit("z", elem_type, 0),
        },
        opset=25,
    )
    folded = fold_constants(model)
    assert op_types(folded) == ["DequantizeLinear", "MatMul"]
    tensor = next(t for t in folded.graph.initializer if t.name == "q")
    assert tensor.data_type == elem_type


def test_batch_norm_and_conv_stay():
    model = make_model(
        [node("Conv", "x w", "c", name="conv"), node("BatchNormalization", "c s s s s", name="bn")],
        {"x": np.zeros((1, 2, 4, 4), np.float32)},
        {"w": np.ones((3, 2, 1, 1), np.float32), "s": np.ones(3, np.float32)},
    )
    assert [n.name for n in fold_constants(model).graph.node] == ["conv", "bn"]


def test_random_nodes_stay_and_unused_ones_go():
    model = make_model(
        [node("RandomUniform", "", "r", shape=[4]), node("Add", "x r"), node("Relu", "x", "dead")],
        {"x": X},
    )
    assert op_types(fold_constants(model)) == ["RandomUniform", "Add"]


def test_every_value_has_a_type():
    model = make_model([node("Relu", "x", "a"), node("Transpose", "a", perm=[2, 0, 1])], {"x": X})
    folded = fold_constants(model)
    types = {v.name: v.type.tensor_type for v in folded.graph.value_info}
    assert [d.dim_value for d in types["a"].shape.dim] == [2, 3, 4]
    output = folded.graph.output[0].type.tensor_type
    assert [d.dim_value for d in output.shape.dim] == [4, 2, 3]


def test_value_that_nothing_produces():
    model = make_model([node("Add", "x ghost", name="add")], {"x": X})
    with pytest.raises(ModelError, match=r"node 'add'.*'ghost'"):
        fold_constants(model)


def test_output_that_nothing_produces():
    model = make_model([node("Relu", "x", "z")], {"x": X})
    with pytest.raises(ModelError, match="output 'y'"):
        fold_constants(model)
