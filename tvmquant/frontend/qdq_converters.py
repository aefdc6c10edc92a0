"""QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear at the QDQ waist."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto
from tvm import relax

from tvmquant.errors import ModelError, UnsupportedOperatorError
from tvmquant.frontend.dtypes import INTEGER_TYPES, IntegerType, type_name
from tvmquant.frontend.node import NodeView, constant_of, shape_of
from tvmquant.ops import is_op, waist
from tvmquant.ops.dynamic import dynamic_quantize


def _quantize_linear(node: NodeView) -> relax.Expr:
    x = node.inputs[0]
    output = node.attrs.get("output_dtype", 0)
    if not output:
        output = TensorProto.UINT8 if node.input(2) is None else node.elem_type(2)
    kind = _integer(node, output)
    _require_float32(node, node.elem_type(1), "scale")
    if node.elem_type(0) == TensorProto.INT32:
        x = node.emit(relax.op.astype(x, "float32"), ".float")
    else:
        _require_float32(node, node.elem_type(0), "input")
    if node.attrs.get("precision", 0) not in (0, TensorProto.FLOAT):
        _require_float32(node, node.attrs["precision"], "precision")
    scale, zero_point, axis, block_size = _parameters(node, x, kind)
    return waist.quantize(
        x,
        scale,
        zero_point,
        bits=kind.bits,
        qmin=kind.qmin,
        qmax=kind.qmax,
        dtype=kind.storage,
        axis=axis,
        block_size=block_size,
    )


def _dequantize_linear(node: NodeView) -> relax.Expr:
    q = node.inputs[0]
    kind = _integer(node, node.elem_type(0))
    _require_float32(node, node.elem_type(1), "scale")
    if node.attrs.get("output_dtype", 0) not in (0, TensorProto.FLOAT):
        _require_float32(node, node.attrs["output_dtype"], "output")
    scale, zero_point, axis, block_size = _parameters(node, q, kind)
    return waist.dequantize(q, scale, zero_point, bits=kind.bits, axis=axis, block_size=block_size)


def _dynamic_quantize_linear(node: NodeView) -> relax.Expr:
    x = node.inputs[0]
    made = node.emit(dynamic_quantize(x), ".dynamic")
    names = ("", ".scale", ".zero_point")
    return relax.Tuple(
        [node.emit(relax.TupleGetItem(made, i), name) for i, name in enumerate(names)]
    )


def transpose_weight(node: NodeView, weight: relax.Expr) -> relax.Expr:
    """Transpose a matrix; of a dequantized constant the integers are transposed."""
    value = constant_of(weight)
    if value is not None:
        return relax.const(np.ascontiguousarray(value.T))
    source = node.bb.lookup_binding(weight) if isinstance(weight, relax.Var) else None
    if source is not None and is_op(source, "tvmquant.dequantize"):
        arrays = [constant_of(argument) for argument in source.args]
        if all(array is not None for array in arrays):
            attrs = source.attrs
            flipped = waist.dequantize(
                *(relax.const(np.ascontiguousarray(array.T)) for array in arrays),
                bits=int(attrs["bits"]),
                axis=1 - int(attrs["axis"]),
                block_size=int(attrs["block_size"]),
            )
            return node.emit(flipped, ".weight")
    return node.emit(relax.op.permute_dims(weight, [1, 0]), ".transpose_b")


def _integer(node: NodeView, elem_type: int | None) -> IntegerType:
    kind = INTEGER_TYPES.get(elem_type)
    if kind is None:
        named = "an unknown type" if elem_type is None else type_name(elem_type)
        raise UnsupportedOperatorError(
            f"node '{node.name}' ({node.proto.op_type}) quantizes with {named}; tvmquant imports "
            "integers of 2, 4, 8 and 16 bits"
        )
    return kind


def _require_float32(node: NodeView, elem_type: int | None, what: str) -> None:
    if elem_type != TensorProto.FLOAT:
        named = "an unknown type" if elem_type is None else type_name(elem_type)
        raise UnsupportedOperatorError(
            f"node '{node.name}' ({node.proto.op_type}): its {what} is {named}; only float32 is "
            "supported"
        )


def _parameters(
    node: NodeView, x: relax.Expr, kind: IntegerType
) -> tuple[relax.Expr, relax.Expr, int, int]:
    """Scale, zero point, axis and block size in the form of :mod:`tvmquant.ops.waist`."""
    scale = node.inputs[1]
    zero_point = node.input(2)
    if zero_point is None:
        zero_point = relax.const(np.zeros((), kind.storage))
    shape = shape_of(x)
    sizes = [shape_of(scale), shape_of(zero_point)]
    wide = max(sizes, key=lambda dims: (int(np.prod(dims)), len(dims)))
    if int(np.prod(wide)) == 1:
        return _reshaped(node, scale, [], ".scale"), _reshaped(node, zero_point, [], ".zero"), 0, 0
    axis = node.attrs.get("axis", 1)
    if not -len(shape) <= axis < len(shape):
        raise ModelError(
            f"node '{node.name}' ({node.proto.op_type}): axis {axis} is outside the rank "
            f"{len(shape)} of its input"
        )
    axis %= len(shape)
    block_size = node.attrs.get("block_size", 0)
    if len(wide) > 1 and not block_size:
        axis, block_size = _broadcast_block(node, shape, wide)
    # A per-tensor zero point next to scales per channel (or the reverse) is spread out.
    scale = _reshaped(node, scale, wide, ".scale")
    return scale, _reshaped(node, zero_point, wide, ".zero"), axis, block_size


def _broadcast_block(node: NodeView, shape: list[int], wide: list[int]) -> tuple[int, int]:
    """Parameters of the tensor's rank with one axis of length 1: one block along that axis."""
    different = [i for i, (size, dim) in enumerate(zip(shape, wide)) if size != dim]
    if len(wide) != len(shape) or len(different) > 1 or any(wide[i] != 1 for i in different):
        raise ModelError(
            f"node '{node.name}' ({node.proto.op_type}): scale of shape {wide} does not fit an "
            f"input of shape {shape}"
        )
    axis = different[0] if different else len(shape) - 1
    return axis, shape[axis] if different else 1


def _reshaped(node: NodeView, expr: relax.Expr, shape: list[int], suffix: str) -> relax.Expr:
    if shape_of(expr) == shape:
        return expr
    value = constant_of(expr)
    if value is not None:
        spread = value.reshape(()) if value.size == 1 else value
        return relax.const(np.ascontiguousarray(np.broadcast_to(spread, shape)).reshape(shape))
    if int(np.prod(shape_of(expr))) == 1:
        expr = node.emit(relax.op.reshape(expr, []), suffix) if shape_of(expr) else expr
        return node.emit(relax.op.broadcast_to(expr, shape), suffix) if shape else expr
    return node.emit(relax.op.broadcast_to(expr, shape), suffix)


QDQ_CONVERTERS: dict[str, Callable[[NodeView], relax.Expr]] = {
    "QuantizeLinear": _quantize_linear,
    "DequantizeLinear": _dequantize_linear,
    "DynamicQuantizeLinear": _dynamic_quantize_linear,
}
