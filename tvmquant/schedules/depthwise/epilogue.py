"""Requantize emitter: int32 accumulators to the output, in vector TIR.

Bit for bit :func:`tvmquant.reference.requantize.requantize`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from tvmquant.schedules.linear.tir import broadcast, cast, splat

Expr = Any
# Beyond this every shifted accumulator saturates, and 2**14 << 16 still fits int32.
_SHIFT_LIMIT = 1 << 14


@dataclass(frozen=True)
class Output:
    """Run-time constants of the output, int32 scalars read from ``qinfo``."""

    zero_point: Expr
    low: Expr
    high: Expr


def requantize_vector(
    flavour: str,
    acc: Expr,
    params: list[Expr],
    output: Output,
    lanes: int,
    round_float: Callable[[Expr], Expr],
    clamps_low: bool = False,
) -> Expr:
    """Result of ``lanes`` accumulators, for the byte flavours before the zero point is added.

    Parameters
    ----------
    flavour : str
    acc : Expr
        int32 vector, bias included.
    params : list of Expr
        Vectors of the requantize parameters.
    output : Output
    lanes : int
    round_float : callable
        Rounds a clamped float32 vector half to even to int32.
    clamps_low : bool
        The caller applies the lower clamp of the ``float`` flavour.

    Returns
    -------
    Expr
        int32, or float32 for ``dequantize``.
    """
    if flavour == "none":
        return acc
    if flavour == "dequantize":
        return cast("float32", lanes, acc) * params[0]
    low, high = output.low - output.zero_point, output.high - output.zero_point

    def everywhere(dtype: str, value: Expr) -> Expr:
        return broadcast(tirx.Cast(dtype, value), lanes)

    if flavour == "float":
        # Both bounds are integers, so clamping before rounding is the same as after.
        scaled = cast("float32", lanes, acc) * params[0]
        scaled = tirx.min(scaled, everywhere("float32", high))
        if not clamps_low:
            scaled = tirx.max(scaled, everywhere("float32", low))
        return round_float(scaled)
    if flavour == "fixed_point":
        multiplier, shift = (cast("int64", lanes, p) for p in params)
        one = splat("int64", 1, lanes)
        wide = (cast("int64", lanes, acc) * multiplier + (one << (shift - one))) >> shift
        wide = tirx.max(tirx.min(wide, everywhere("int64", high)), everywhere("int64", low))
        return cast("int32", lanes, wide)
    one, zero, limit = (splat("int32", v, lanes) for v in (1, 0, _SHIFT_LIMIT))
    right = tirx.max(params[0], one)
    # The carry of the rounding is the last bit shifted out: no 64-bit sum is needed.
    rounded = (acc >> right) + ((acc >> (right - one)) & one)
    clipped = tirx.max(tirx.min(acc, limit), zero - limit)
    left = clipped << tirx.max(zero - params[0], zero)
    value = tirx.Select(params[0] > zero, rounded, left)
    return tirx.max(tirx.min(value, broadcast(high, lanes)), broadcast(low, lanes))
