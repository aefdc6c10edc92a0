"""Softmax in vectors for rows of any length: the float operator between integer matmuls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax, te, tirx

from tvmquant.ops.integer import shape_of
from tvmquant.schedules.compute.exponential import exp_te

SOFTMAX = "relax.nn.softmax"
_LANES = 16


def softmax_te(x: te.Tensor, axis: int, vectors: bool = True) -> te.Tensor:
    """Softmax of float32 ``x`` along ``axis`` (not negative), in ``vectors`` where that pays."""
    shape = [int(dim) for dim in x.shape]
    vectors = vectors and axis == len(shape) - 1 and shape[axis] >= 2 * _LANES
    peak = _row_max(x) if vectors else _reduce(x, axis, te.max, "peak")
    power = te.compute(
        shape, lambda *i: exp_te(x(*i) - peak(*_without(i, axis))), name="softmax_exp"
    )
    total = _row_sum(power) if vectors else _reduce(power, axis, te.sum, "total")
    return te.compute(shape, lambda *i: power(*i) / total(*_without(i, axis)), name="softmax")


def _row_max(x: te.Tensor) -> te.Tensor:
    """Maximum along the last axis: the last chunk overlaps the one before."""
    *rows, size = (int(dim) for dim in x.shape)
    chunk = te.reduce_axis((0, -(-size // _LANES)), name="chunk")

    def lane_max(*index: Any) -> Any:
        start = tirx.min(chunk * _LANES, size - _LANES)
        return te.max(x(*index[:-1], start + index[-1]), axis=chunk)

    lanes = te.compute((*rows, _LANES), lane_max, name="peak_lanes")
    return _reduce(lanes, len(rows), te.max, "peak")


def _row_sum(x: te.Tensor) -> te.Tensor:
    """Sum along the last axis: whole chunks by lanes, then the rest."""
    *rows, size = (int(dim) for dim in x.shape)
    chunk = te.reduce_axis((0, size // _LANES), name="chunk")
    lanes = te.compute(
        (*rows, _LANES),
        lambda *i: te.sum(x(*i[:-1], chunk * _LANES + i[-1]), axis=chunk),
        name="total_lanes",
    )
    total = _reduce(lanes, len(rows), te.sum, "total")
    rest = size % _LANES
    if not rest:
        return total
    tail = te.reduce_axis((0, rest), name="tail")
    ends = te.compute(
        rows, lambda *i: te.sum(x(*i, size - rest + tail), axis=tail), name="total_rest"
    )
    return te.compute(rows, lambda *i: total(*i) + ends(*i), name="total_all")


def _reduce(x: te.Tensor, axis: int, reducer: Any, name: str) -> te.Tensor:
    shape = [int(dim) for dim in x.shape]
    k = te.reduce_axis((0, shape[axis]), name="k")
    return te.compute(
        [*shape[:axis], *shape[axis + 1 :]],
        lambda *i: reducer(x(*i[:axis], k, *i[axis:]), axis=k),
        name=name,
    )


def _without(index: Sequence[Any], axis: int) -> list[Any]:
    return [*index[:axis], *index[axis + 1 :]]


def legalize_softmax(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Lowering of ``relax.nn.softmax``; other types than float32 go to TVM's own."""
    x = call.args[0]
    if str(x.ty.dtype) != "float32" or not shape_of(x):
        return call.op.get_attr("FLegalize")(bb, call)
    axis = int(call.attrs.axis) % len(shape_of(x))
    target = tvm.target.Target.current()
    vectors = target is None or target.kind.name == "llvm"
    return bb.call_te(lambda x: softmax_te(x, axis, vectors), x, primfunc_name_hint="softmax")
