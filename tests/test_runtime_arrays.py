"""Checking and making input arrays."""

import numpy as np
import pytest

from tvmquant.errors import InputError
from tvmquant.runtime.arrays import check_array, check_inputs, example_inputs
from tvmquant.runtime.manifest import TensorInfo


def info(dtype, shape=(2,)):
    return TensorInfo("a", shape, dtype)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("float64", "float32"), ("float16", "float32"), ("int64", "int32"), ("uint8", "int64")],
)
def test_kinds_convert_among_themselves(given, wanted):
    array = check_array(np.array([1, 2], given), info(wanted))
    assert array.dtype == wanted and array.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (np.array([1, 300]), "uint8"),
        (np.array([-1, 3]), "uint8"),
        (np.array([1.0, 2.0]), "int32"),
        (np.array([1, 2]), "float32"),
        (np.array([True, False]), "float32"),
    ],
)
def test_lossy_conversions_are_refused(value, wanted):
    with pytest.raises(InputError, match=f"'a' has dtype {value.dtype}, the model takes {wanted}"):
        check_array(value, info(wanted))


def test_scalars_and_lists_are_arrays():
    assert check_array(2.5, info("float32", ())).shape == ()
    assert check_array([1.5, 2.5], info("float32")).tolist() == [1.5, 2.5]


def test_all_inputs_in_the_order_of_the_model():
    infos = [TensorInfo("a", (1,), "float32"), TensorInfo("b", (), "int64")]
    first, second = check_inputs({"b": 3, "a": [1.0]}, infos)
    assert first.tolist() == [1.0] and second == 3


def test_examples_match_what_is_asked_and_are_seeded():
    infos = [info("float32", (3, 2)), info("int64"), info("uint8", (9,)), info("bool", (64,))]
    arrays = example_inputs(infos)
    assert [(a.shape, str(a.dtype)) for a in arrays] == [(i.shape, i.dtype) for i in infos]
    assert arrays[1].max() <= 1 and len(np.unique(arrays[3])) == 2
    for once, again in zip(arrays, example_inputs(infos), strict=True):
        np.testing.assert_array_equal(once, again)
