"""Calling compiled models: values, names, shapes and dtypes."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import tiny_reference

from tvmquant.errors import InputError, TargetError
from tvmquant.runtime import CompiledModel


def test_call_gives_a_tuple_of_the_outputs(tiny_model, tiny_inputs):
    got = tiny_model(tiny_inputs["x"], tiny_inputs["shift"])
    assert isinstance(got, tuple)
    for array, want in zip(got, tiny_reference(**tiny_inputs), strict=True):
        np.testing.assert_allclose(array, want, rtol=1e-5, atol=1e-6)


def test_run_goes_by_name_in_any_order(tiny_model, tiny_inputs):
    got = tiny_model.run(dict(reversed(tiny_inputs.items())))
    assert list(got) == ["y", "z"]
    np.testing.assert_allclose(got["z"], tiny_reference(**tiny_inputs)[1], rtol=1e-5, atol=1e-6)


def test_outputs_are_fresh_and_do_not_alias(tiny_model, tiny_inputs):
    first, first_view = tiny_model(*tiny_inputs.values())
    kept = first.copy()
    first_view[:] = -1
    second, _ = tiny_model(tiny_inputs["x"] + 1, tiny_inputs["shift"])
    np.testing.assert_array_equal(first, kept)
    assert not np.array_equal(first, second)


def test_inputs_are_left_alone(tiny_model, tiny_inputs):
    kept = tiny_inputs["x"].copy()
    tiny_model(*tiny_inputs.values())
    np.testing.assert_array_equal(tiny_inputs["x"], kept)


def test_float64_and_strided_arrays_are_taken(tiny_model, tiny_inputs):
    want = tiny_model(*tiny_inputs.values())[0]
    strided = np.repeat(tiny_inputs["x"], 2, axis=1)[:, ::2].astype("float64")
    np.testing.assert_array_equal(tiny_model(strided, tiny_inputs["shift"])[0], want)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": None}, "missing 'x'"),
        ({"image": np.zeros(3)}, "unknown 'image'"),
        ({"x": np.zeros((1, 16), "float32")}, r"'x' has shape \[1, 16\].*\[2, 16\]"),
        ({"x": np.zeros((2, 16), "uint8")}, "'x' has dtype uint8.*float32"),
        ({"x": np.zeros((2, 16), "complex64")}, "dtype complex64"),
        ({"x": [["a"] * 16] * 2}, "dtype <U1"),
    ],
)
def test_bad_inputs_are_named(tiny_model, tiny_inputs, change, message):
    inputs = {k: v for k, v in {**tiny_inputs, **change}.items() if v is not None}
    with pytest.raises(InputError, match=message) as caught:
        tiny_model.run(inputs)
    assert "\n" not in str(caught.value)


def test_wrong_number_of_arrays(tiny_model, tiny_inputs):
    with pytest.raises(InputError, match=r"got 1 inputs, the model takes 2: x: float32 \[2, 16\]"):
        tiny_model(tiny_inputs["x"])


def test_a_model_for_another_processor_is_not_run(tiny_build, tiny_inputs):
    executable, manifest = tiny_build
    foreign = replace(manifest, features=["sve2"])
    with pytest.raises(TargetError, match="this processor lacks sve2"):
        CompiledModel.from_build(executable, foreign).run(tiny_inputs)
    triple = '{"kind": "llvm", "mtriple": "riscv64-linux-gnu"}'
    foreign = replace(manifest, target_json=triple)
    with pytest.raises(TargetError, match="compiled for riscv64"):
        CompiledModel.from_build(executable, foreign).run(tiny_inputs)


def test_repr_names_model_precision_and_tensors(tiny_model):
    text = repr(tiny_model)
    assert "tiny.onnx" in text and "w8a8" in text and "x: float32 [2, 16]" in text
