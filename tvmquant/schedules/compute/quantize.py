"""Quantize and dequantize."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax, te, tirx

from tvmquant.ops.integer import shape_of
from tvmquant.schedules.compute.legalize import emit, legalizes
from tvmquant.schedules.compute.requantize import clip


def quantize_te(
    x: te.Tensor,
    scale: Any,
    zero_point: Any,
    *,
    qmin: int,
    qmax: int,
    dtype: str,
    axis: int,
    block_size: int,
) -> te.Tensor:
    """Quantize, see :func:`tvmquant.reference.quantize` (a true division, as in ONNX)."""

    def element(*index: Any) -> Any:
        s = _param(scale, index, axis, block_size)
        z = _param(zero_point, index, axis, block_size).astype("int32")
        low = (tirx.const(qmin, "int32") - z).astype("float32")
        high = (tirx.const(qmax, "int32") - z).astype("float32")
        scaled = clip(tirx.nearbyint(x(*index) / s), low, high)
        return (scaled.astype("int32") + z).astype(dtype)

    return te.compute(x.shape, element, name="quantize")


def dequantize_te(
    q: te.Tensor, scale: Any, zero_point: Any, *, axis: int, block_size: int
) -> te.Tensor:
    """Dequantize, see :func:`tvmquant.reference.dequantize`."""

    def element(*index: Any) -> Any:
        s = _param(scale, index, axis, block_size)
        z = _param(zero_point, index, axis, block_size).astype("int32")
        return (q(*index).astype("int32") - z).astype("float32") * s

    return te.compute(q.shape, element, name="dequantize")


def _param(param: Any, index: Sequence[Any], axis: int, block_size: int) -> Any:
    """Scale or zero point of the element ``index``: scalar, along ``axis``, or blocked."""
    if not isinstance(param, te.Tensor):
        return param
    shape = [int(dim) for dim in param.shape]
    if all(dim == 1 for dim in shape):
        return param(*[0] * len(shape))
    if len(shape) == 1:
        return param(index[axis])
    place = list(index)
    if block_size:
        place[axis] = tirx.floordiv(place[axis], block_size)
    return param(*place)


def _grouping(call: relax.Call) -> dict[str, int]:
    rank = max(len(shape_of(call.args[0])), 1)
    return {
        "axis": int(call.attrs["axis"]) % rank,
        "block_size": int(call.attrs["block_size"]),
    }


@legalizes("tvmquant.quantize")
def _legalize_quantize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    qmin, qmax = int(call.attrs["qmin"]), int(call.attrs["qmax"])
    dtype, grouping = str(call.attrs["dtype"]), _grouping(call)

    def definition(x: te.Tensor, scale: Any, zero_point: Any) -> te.Tensor:
        return quantize_te(x, scale, zero_point, qmin=qmin, qmax=qmax, dtype=dtype, **grouping)

    return emit(bb, "quantize", definition, call.args)


@legalizes("tvmquant.dequantize")
def _legalize_dequantize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    grouping = _grouping(call)

    def definition(q: te.Tensor, scale: Any, zero_point: Any) -> te.Tensor:
        return dequantize_te(q, scale, zero_point, **grouping)

    return emit(bb, "dequantize", definition, call.args)
