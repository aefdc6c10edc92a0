"""Product of two activations (attention), uint8 times uint8 with zero points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax, te, tirx

from tvmquant.ops.integer import broadcast_shape
from tvmquant.schedules.compute.legalize import emit, legalizes
from tvmquant.schedules.compute.requantize import OutputSpec, requantize_te

# Every integer up to here is a float32.
_EXACT = 1 << 24


def batch_matmul_te(
    a: te.Tensor,
    b: te.Tensor,
    params: Sequence[Any],
    out: OutputSpec,
    *,
    a_zero_point: int,
    b_zero_point: int,
) -> te.Tensor:
    """Batched product, see :func:`tvmquant.reference.batch_matmul`.

    Where no sum can leave the integers that float32 holds exactly, the products are float32
    multiply-adds: the same integers, at one and a half times the speed of int32.
    """
    a_shape, b_shape = ([int(dim) for dim in tensor.shape] for tensor in (a, b))
    batch = broadcast_shape(a_shape[:-2], b_shape[:-2])
    shape = [*batch, a_shape[-2], b_shape[-1]]
    k = te.reduce_axis((0, a_shape[-1]), name="k")

    def place(tensor_shape: list[int], index: Sequence[Any]) -> list[Any]:
        lead = index[len(batch) - (len(tensor_shape) - 2) : len(batch)]
        return [0 if dim == 1 else i for dim, i in zip(tensor_shape, lead)]

    largest = a_shape[-1]
    for zero_point in (a_zero_point, b_zero_point):
        largest *= max(zero_point, 255 - zero_point)
    exact = largest <= _EXACT
    stored, dtype = ("float32", "float32") if exact else ("int16", "int32")
    left, right = _centred(a, a_zero_point, stored), _centred(b, b_zero_point, stored)

    def term(*index: Any) -> Any:
        x = left(*place(a_shape, index), index[-2], k).astype(dtype)
        return te.sum(x * right(*place(b_shape, index), k, index[-1]).astype(dtype), axis=k)

    acc = te.compute(shape, term, name="batch_matmul_acc")

    def element(*index: Any) -> Any:
        return requantize_te(acc(*index).astype("int32"), params, out, index)

    return te.compute(shape, element, name="batch_matmul")


def _centred(x: te.Tensor, zero_point: int, dtype: str) -> te.Tensor:
    """Stored values without their zero point."""
    offset = tirx.const(zero_point, dtype)
    return te.compute(x.shape, lambda *i: x(*i).astype(dtype) - offset, name=f"{x.op.name}_centred")


@legalizes("tvmquant.batch_matmul")
def _legalize_batch_matmul(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    out = OutputSpec.of(call.attrs)
    zero_points = {key: int(call.attrs[key]) for key in ("a_zero_point", "b_zero_point")}

    def definition(a: te.Tensor, b: te.Tensor, *params: Any) -> te.Tensor:
        return batch_matmul_te(a, b, params, out, **zero_points)

    return emit(bb, "batch_matmul", definition, call.args)
