"""ONNX element types: what the integers of a quantized tensor may be and how they are stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto


@dataclass(frozen=True)
class IntegerType:
    """An integer type of ONNX.

    Attributes
    ----------
    bits : int
    signed : bool
    storage : str
        NumPy dtype that holds it: a whole byte for 4 and 2 bits.
    """

    bits: int
    signed: bool
    storage: str

    @property
    def qmin(self) -> int:
        """Smallest value."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def qmax(self) -> int:
        """Largest value."""
        return (1 << (self.bits - self.signed)) - 1


INTEGER_TYPES = {
    TensorProto.INT8: IntegerType(8, True, "int8"),
    TensorProto.UINT8: IntegerType(8, False, "uint8"),
    TensorProto.INT16: IntegerType(16, True, "int16"),
    TensorProto.UINT16: IntegerType(16, False, "uint16"),
    TensorProto.INT32: IntegerType(32, True, "int32"),
    TensorProto.INT4: IntegerType(4, True, "int8"),
    TensorProto.UINT4: IntegerType(4, False, "uint8"),
}
# onnx has the 2-bit types from 1.20 on.
for _name, _signed, _storage in (("INT2", True, "int8"), ("UINT2", False, "uint8")):
    if hasattr(TensorProto, _name):
        INTEGER_TYPES[getattr(TensorProto, _name)] = IntegerType(2, _signed, _storage)

_REFUSED = ("FLOAT8", "FLOAT4", "BFLOAT16", "STRING", "COMPLEX", "FLOAT6")
REFUSED_TYPES = frozenset(
    number for name, number in TensorProto.DataType.items() if name.startswith(_REFUSED)
)


def type_name(elem_type: int) -> str:
    """Name of an ONNX element type in lower case, for messages."""
    try:
        return TensorProto.DataType.Name(elem_type).lower()
    except ValueError:
        return f"type {elem_type}"


def storage_dtype(elem_type: int) -> str:
    """NumPy dtype in which tvmquant keeps a tensor of this ONNX element type."""
    if elem_type in INTEGER_TYPES:
        return INTEGER_TYPES[elem_type].storage
    if elem_type == TensorProto.BFLOAT16:
        return "float32"  # NumPy has no bfloat16
    return str(onnx.helper.tensor_dtype_to_np_dtype(elem_type))


def to_storage(tensor: TensorProto) -> np.ndarray:
    """Array of an ONNX tensor; 4- and 2-bit integers are widened to bytes."""
    array = onnx.numpy_helper.to_array(tensor)
    return np.array(array.astype(storage_dtype(tensor.data_type)), order="C")
