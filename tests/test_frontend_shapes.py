"""tvmquant.frontend.shapes"""

import numpy as np
import pytest
from frontend_tools import make_model, node

from tvmquant.errors import CalibrationError, ModelError
from tvmquant.frontend.onnx_model import declared_inputs
from tvmquant.frontend.shapes import fix_shapes


def model_of(**inputs):
    """Model with these inputs; a string is a symbolic dimension, None an anonymous one."""
    arrays = {name: np.zeros([1] * len(dims), np.float32) for name, dims in inputs.items()}
    model = make_model([node("Relu", next(iter(inputs)))], arrays)
    for value in model.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, inputs[value.name]):
            dim.Clear()
            if isinstance(size, str):
                dim.dim_param = size
            elif size is not None:
                dim.dim_value = size
    return model


def shapes(model, input_shapes=None, sample=None):
    return {i.name: i.shape for i in declared_inputs(fix_shapes(model, input_shapes, sample))}


def test_explicit_shape_wins_over_the_sample():
    model = model_of(x=["batch", 3, "h", "w"])
    sample = {"x": np.zeros((1, 3, 8, 8))}
    assert shapes(model, {"x": [2, 3, 16, 16]}, sample) == {"x": (2, 3, 16, 16)}
    assert shapes(model, None, sample) == {"x": (1, 3, 8, 8)}


def test_the_argument_is_not_changed():
    model = model_of(x=["batch", 3])
    fix_shapes(model)
    assert declared_inputs(model)[0].shape == (None, 3)


@pytest.mark.parametrize("dims", [["batch_size", 3], ["N", 3], [None, 3], [-1, 3], ["unk__1", 3]])
def test_batch_becomes_one(dims):
    assert shapes(model_of(x=dims)) == {"x": (1, 3)}


def test_batch_in_the_middle_becomes_one():
    assert shapes(model_of(state=[2, "batch", 128])) == {"state": (2, 1, 128)}


@pytest.mark.parametrize("dims", [[1, 3, "h", "w"], ["seq_len"], ["batch", "sequence_length"]])
def test_other_open_dimensions_are_an_error(dims):
    with pytest.raises(ModelError, match=r"input 'x'.*open dimensions \[.*--input-shape x="):
        shapes(model_of(x=dims))


def test_message_shows_the_dimensions():
    with pytest.raises(ModelError, match=r"\[1, 3, h, \?\]: .*--input-shape img=1,3,224,224"):
        shapes(model_of(img=[1, 3, "h", None]))


def test_shared_symbols_get_one_value():
    model = model_of(ids=["b", "seq"], mask=["b", "seq"])
    assert shapes(model, {"ids": (2, 32)}) == {"ids": (2, 32), "mask": (2, 32)}
    with pytest.raises(ModelError, match="'seq' is 16 in the given shape, but 32"):
        shapes(model, {"ids": (2, 32), "mask": (2, 16)})


def test_question_marks_are_not_one_symbol():
    model = model_of(x=[-1, 3, "?", "?"])
    assert shapes(model, None, {"x": np.zeros((1, 3, 48, 192))}) == {"x": (1, 3, 48, 192)}


def test_unknown_name():
    with pytest.raises(ModelError, match="no input 'y'; its inputs are 'x'"):
        shapes(model_of(x=["n", 3]), {"y": (1, 3)})


def test_wrong_rank():
    with pytest.raises(ModelError, match=r"input 'x' has 2 dimensions \[n, 3\].*has 3"):
        shapes(model_of(x=["n", 3]), {"x": (1, 3, 3)})
    with pytest.raises(CalibrationError, match="calibration sample has 1"):
        shapes(model_of(x=["n", 3]), None, {"x": np.zeros(3)})


def test_contradiction_with_the_model():
    with pytest.raises(ModelError, match="differs at axis 1"):
        shapes(model_of(x=["n", 3]), {"x": (1, 4)})


@pytest.mark.parametrize("shape", [(0, 3), (-1, 3), (1.5, 3)])
def test_sizes_must_be_positive_integers(shape):
    with pytest.raises(ModelError, match="positive integers"):
        shapes(model_of(x=["n", 3]), {"x": shape})


def test_input_without_any_shape():
    model = model_of(x=["n", 3])
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match="input 'x' has no shape"):
        shapes(model)
    assert shapes(model, {"x": (2, 3)}) == {"x": (2, 3)}
