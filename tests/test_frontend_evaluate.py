"""tvmquant.frontend.evaluate"""

import numpy as np
from frontend_tools import make_model, node
from onnx import TensorProto, numpy_helper

from tvmquant.frontend.evaluate import evaluate

MODEL = make_model([], {}, outputs=(), opset=25)


def tensor(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def test_inputs_are_found_by_name_and_may_repeat():
    two = tensor("b", np.float32(2))
    (result,) = evaluate(node("Sub", "a b"), [two, tensor("a", np.float32(5)), two], MODEL)
    assert result.name == "y"
    assert numpy_helper.to_array(result) == 3


def test_several_outputs_some_absent():
    split = node("Split", "x", "a _ c", axis=0, num_outputs=3)
    split.output[1] = ""
    results = evaluate(split, [tensor("x", np.arange(3.0))], MODEL)
    assert [t.name for t in results] == ["a", "c"]


def test_reference_steps_in_where_onnxruntime_has_no_kernel():
    quantize = node("QuantizeLinear", "x s", output_dtype=TensorProto.INT2)
    constants = [tensor("x", np.float32([-9, 0.4, 9])), tensor("s", np.float32(1))]
    (result,) = evaluate(quantize, constants, MODEL)
    assert result.data_type == TensorProto.INT2
    np.testing.assert_array_equal(numpy_helper.to_array(result).astype(int), [-2, 0, 1])


def test_nobody_can_compute_it():
    assert evaluate(node("Strange", "x", domain="nowhere"), [tensor("x", [1.0])], MODEL) is None
