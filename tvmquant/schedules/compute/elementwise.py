"""Elementwise integer operators: addition, multiplication, table, sign flip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax, te

from tvmquant.ops.integer import broadcast_shape, shape_of
from tvmquant.schedules.compute.legalize import emit, legalizes, load
from tvmquant.schedules.compute.requantize import OutputSpec, requantize_te


def add_te(
    a: te.Tensor,
    b: te.Tensor,
    params: Sequence[Any],
    out: OutputSpec,
    *,
    a_zero_point: int,
    b_zero_point: int,
    a_multiplier: int,
    b_multiplier: int,
) -> te.Tensor:
    """Sum of two activations, see :func:`tvmquant.reference.add`."""

    def element(*index: Any) -> Any:
        left = (load(a, list(index)).astype("int32") - a_zero_point) * a_multiplier
        right = (load(b, list(index)).astype("int32") - b_zero_point) * b_multiplier
        return requantize_te(left + right, params, out, index)

    return te.compute(_broadcast(a, b), element, name="add")


def multiply_te(
    a: te.Tensor,
    b: te.Tensor,
    params: Sequence[Any],
    out: OutputSpec,
    *,
    a_zero_point: int,
    b_zero_point: int,
) -> te.Tensor:
    """Product of two activations, see :func:`tvmquant.reference.multiply`."""

    def element(*index: Any) -> Any:
        left = load(a, list(index)).astype("int32") - a_zero_point
        right = load(b, list(index)).astype("int32") - b_zero_point
        return requantize_te(left * right, params, out, index)

    return te.compute(_broadcast(a, b), element, name="multiply")


def lut_te(x: te.Tensor, table: te.Tensor, axis: int = -1) -> te.Tensor:
    """Table look-up, see :func:`tvmquant.reference.lut`."""

    def element(*index: Any) -> Any:
        code = x(*index).astype("int32")
        return table(code) if len(table.shape) == 1 else table(index[axis], code)

    return te.compute(x.shape, element, name="lut")


def flip_sign_te(x: te.Tensor) -> te.Tensor:
    """uint8 ↔ int8 by 128: the same real value with the zero point moved."""
    shift, other = (-128, "int8") if str(x.dtype) == "uint8" else (128, "uint8")
    return te.compute(
        x.shape, lambda *i: (x(*i).astype("int32") + shift).astype(other), name="flip_sign"
    )


def _broadcast(a: te.Tensor, b: te.Tensor) -> list[int]:
    return broadcast_shape(*([int(dim) for dim in tensor.shape] for tensor in (a, b)))


def _zero_points(call: relax.Call) -> dict[str, int]:
    return {key: int(call.attrs[key]) for key in ("a_zero_point", "b_zero_point")}


@legalizes("tvmquant.add")
def _legalize_add(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    out = OutputSpec.of(call.attrs)
    factors = {key: int(call.attrs[key]) for key in ("a_multiplier", "b_multiplier")}

    def definition(a: te.Tensor, b: te.Tensor, *params: Any) -> te.Tensor:
        return add_te(a, b, params, out, **_zero_points(call), **factors)

    return emit(bb, "quantized_add", definition, call.args)


@legalizes("tvmquant.multiply")
def _legalize_multiply(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    out = OutputSpec.of(call.attrs)

    def definition(a: te.Tensor, b: te.Tensor, *params: Any) -> te.Tensor:
        return multiply_te(a, b, params, out, **_zero_points(call))

    return emit(bb, "quantized_multiply", definition, call.args)


@legalizes("tvmquant.lut")
def _legalize_lut(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    x, table = call.args
    axis = int(call.attrs["axis"]) % max(len(shape_of(x)), 1)
    return bb.call_te(lut_te, x, table, axis, primfunc_name_hint="lut")


@legalizes("tvmquant.flip_sign")
def _legalize_flip(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    return emit(bb, "flip_sign", flip_sign_te, call.args)
