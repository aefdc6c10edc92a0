"""Product of two activations (attention), uint8 times uint8 with zero points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax, te

from tvmquant.ops.integer import broadcast_shape
from tvmquant.schedules.compute.legalize import emit, legalizes
from tvmquant.schedules.compute.requantize import OutputSpec, requantize_te


def batch_matmul_te(
    a: te.Tensor,
    b: te.Tensor,
    params: Sequence[Any],
    out: OutputSpec,
    *,
    a_zero_point: int,
    b_zero_point: int,
) -> te.Tensor:
    """Batched product, see :func:`tvmquant.reference.batch_matmul`."""
    a_shape, b_shape = ([int(dim) for dim in tensor.shape] for tensor in (a, b))
    batch = broadcast_shape(a_shape[:-2], b_shape[:-2])
    shape = [*batch, a_shape[-2], b_shape[-1]]
    k = te.reduce_axis((0, a_shape[-1]), name="k")

    def place(tensor_shape: list[int], index: Sequence[Any]) -> list[Any]:
        lead = index[len(batch) - (len(tensor_shape) - 2) : len(batch)]
        return [0 if dim == 1 else i for dim, i in zip(tensor_shape, lead)]

    def term(*index: Any) -> Any:
        left = a(*place(a_shape, index), index[-2], k).astype("int32") - a_zero_point
        right = b(*place(b_shape, index), k, index[-1]).astype("int32") - b_zero_point
        return te.sum(left * right, axis=k)

    acc = te.compute(shape, term, name="batch_matmul_acc")
    if out.flavour == "none":
        return acc
    return te.compute(shape, lambda *i: requantize_te(acc(*i), params, out, i), name="batch_matmul")


@legalizes("tvmquant.batch_matmul")
def _legalize_batch_matmul(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    out = OutputSpec.of(call.attrs)
    zero_points = {key: int(call.attrs[key]) for key in ("a_zero_point", "b_zero_point")}

    def definition(a: te.Tensor, b: te.Tensor, *params: Any) -> te.Tensor:
        return batch_matmul_te(a, b, params, out, **zero_points)

    return emit(bb, "batch_matmul", definition, call.args)
