"""The matrix product with float activations and integer weights.

``tvmquant.weight_only_matmul(x, w, scale, bias[, zero_point])`` with attributes ``bits``,
``group_size`` and ``name``; its meaning is :func:`tvmquant.reference.weight_only_matmul`.
"""

from __future__ import annotations

from typing import Any

from tvm import relax

from tvmquant.ops.registry import make_call, register

WEIGHT_ONLY = "tvmquant.weight_only_matmul"


def _infer(call: relax.Call, _bb: Any) -> relax.TensorType:
    dims = [*call.args[0].ty.shape.values][:-1]
    return relax.TensorType([*dims, call.args[1].ty.shape.values[0]], "float32")


register(WEIGHT_ONLY, -1, _infer)


def weight_only_matmul(
    x: relax.Expr,
    w: relax.Expr,
    scale: relax.Expr,
    bias: relax.Expr,
    zero_point: relax.Expr | None = None,
    *,
    bits: int,
    group_size: int,
    name: str,
) -> relax.Call:
    """Float activations times integer weights.

    Parameters
    ----------
    x : relax.Expr
        float32 ``[..., K]``.
    w : relax.Expr
        int8 ``[N, K]``, values of ``bits`` bits.
    scale : relax.Expr
        float32 ``[N, ceil(K / group_size)]``.
    bias : relax.Expr
        float32 ``[N]``.
    zero_point : relax.Expr, optional
        int8, shape of ``scale``; absent means zero.
    bits : int
        8, 4 or 2.
    group_size : int
        Inputs that share a scale, ``K`` for one scale an output channel.
    name : str
        Layer name.
    """
    zeros = [] if zero_point is None else [zero_point]
    return make_call(
        WEIGHT_ONLY, [x, w, scale, bias, *zeros], bits=bits, group_size=group_size, name=name
    )
