"""Quantize, dequantize and observe: the operators of the QDQ graph.

Storage is a whole byte (or more) whatever ``bits`` says: TVM's own sub-byte dtypes are broken
below Relax, packing happens in ``realize``/``pack``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax

from tvmquant.ops.registry import make_call, register


def _infer_quantize(call: relax.Call, _bb: Any) -> relax.TensorType:
    return relax.TensorType(call.args[0].ty.shape, str(call.attrs["dtype"]))


def _infer_dequantize(call: relax.Call, _bb: Any) -> relax.TensorType:
    return relax.TensorType(call.args[0].ty.shape, "float32")


def _infer_same(call: relax.Call, _bb: Any) -> relax.TensorType:
    return call.args[0].ty


register("tvmquant.quantize", 3, _infer_quantize)
register("tvmquant.dequantize", 3, _infer_dequantize)
register("tvmquant.observe", 1, _infer_same)
register("tvmquant.observe_weight", 1, _infer_same)


def quantize(
    x: relax.Expr,
    scale: relax.Expr,
    zero_point: relax.Expr,
    *,
    bits: int,
    qmin: int,
    qmax: int,
    dtype: str,
    axis: int = 0,
    block_size: int = 0,
) -> relax.Call:
    """Quantize node: ``x`` float32 → ``dtype`` storage with values in ``[qmin, qmax]``.

    ``scale`` float32 and ``zero_point`` (any integer dtype) are scalars, ``[C]`` along ``axis``,
    or blocked along ``axis``; see :func:`tvmquant.reference.quantize`.
    """
    return make_call(
        "tvmquant.quantize",
        [x, scale, zero_point],
        bits=bits,
        qmin=qmin,
        qmax=qmax,
        dtype=dtype,
        axis=axis,
        block_size=block_size,
    )


def dequantize(
    q: relax.Expr,
    scale: relax.Expr,
    zero_point: relax.Expr,
    *,
    bits: int,
    axis: int = 0,
    block_size: int = 0,
    channel_bits: Sequence[int] = (),
) -> relax.Call:
    """Dequantize node → float32; see :func:`tvmquant.reference.dequantize`.

    ``channel_bits`` are those of every output channel of a weight where they differ; ``bits`` is
    then the largest.
    """
    attrs = {"channel_bits": list(channel_bits)} if len(channel_bits) else {}
    return make_call(
        "tvmquant.dequantize",
        [q, scale, zero_point],
        bits=bits,
        axis=axis,
        block_size=block_size,
        **attrs,
    )


def observe(
    x: relax.Expr, *, name: str, bits: int, symmetric: bool, estimator: str, group: str = ""
) -> relax.Call:
    """Mark an activation edge that ``calibrate`` will replace by quantize → dequantize.

    Edges of one ``group`` share their statistics and so their scale and zero point.
    """
    return make_call(
        "tvmquant.observe",
        [x],
        name=name,
        bits=bits,
        symmetric=symmetric,
        estimator=estimator,
        group=group,
    )


def observe_weight(
    w: relax.Expr,
    *,
    name: str,
    bits: int,
    granularity: str,
    estimator: str,
    axis: int,
    channel_bits: Sequence[int] = (),
) -> relax.Call:
    """Mark a float weight constant that ``calibrate`` will replace by dequantize(integers).

    ``channel_bits`` as in :func:`dequantize`.
    """
    attrs = {"channel_bits": list(channel_bits)} if len(channel_bits) else {}
    return make_call(
        "tvmquant.observe_weight",
        [w],
        name=name,
        bits=bits,
        granularity=granularity,
        estimator=estimator,
        axis=axis,
        **attrs,
    )


def channel_bits(node: relax.Call) -> list[int]:
    """Bits of every output channel of a weight's node, empty where they are all the same."""
    return [int(bits) for bits in node.attrs.get("channel_bits", ())]
