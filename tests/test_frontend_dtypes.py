"""tvmquant.frontend.dtypes"""

import numpy as np
import pytest
from frontend_tools import low_bit
from onnx import TensorProto, numpy_helper

from tvmquant.frontend.dtypes import (
    INTEGER_TYPES,
    REFUSED_TYPES,
    storage_dtype,
    to_storage,
    type_name,
)


@pytest.mark.parametrize(
    "name,qmin,qmax,storage",
    [
        ("INT8", -128, 127, "int8"),
        ("UINT8", 0, 255, "uint8"),
        ("INT16", -32768, 32767, "int16"),
        ("UINT16", 0, 65535, "uint16"),
        ("INT4", -8, 7, "int8"),
        ("UINT4", 0, 15, "uint8"),
        ("INT2", -2, 1, "int8"),
        ("UINT2", 0, 3, "uint8"),
    ],
)
def test_integer_types(name, qmin, qmax, storage):
    elem_type = getattr(TensorProto, name)
    kind = INTEGER_TYPES[elem_type]
    assert (kind.qmin, kind.qmax, kind.storage) == (qmin, qmax, storage)
    assert storage_dtype(elem_type) == storage
    assert type_name(elem_type) == name.lower()


def test_other_types_keep_their_dtype():
    assert storage_dtype(TensorProto.FLOAT) == "float32"
    assert storage_dtype(TensorProto.BOOL) == "bool"
    assert type_name(999) == "type 999"


def test_refused_types():
    for name in ("FLOAT8E4M3FN", "FLOAT8E5M2", "FLOAT4E2M1", "BFLOAT16", "STRING"):
        assert getattr(TensorProto, name) in REFUSED_TYPES
    assert not REFUSED_TYPES & {TensorProto.FLOAT, TensorProto.FLOAT16, *INTEGER_TYPES}


@pytest.mark.parametrize("name,values", [("INT4", [-8, -1, 7]), ("UINT2", [0, 3, 1])])
def test_low_bits_are_widened(name, values):
    array = to_storage(low_bit("t", getattr(TensorProto, name), values))
    assert array.dtype == ("int8" if name == "INT4" else "uint8")
    np.testing.assert_array_equal(array, values)


def test_float_tensors():
    array = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(to_storage(numpy_helper.from_array(array)), array)
