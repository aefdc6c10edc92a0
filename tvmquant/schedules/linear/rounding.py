"""Requantization of int32 vectors up to the rounding: neither the zero point nor the clamp yet.

The meaning is :func:`tvmquant.reference.requantize`, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.tir import Expr, bits_as, broadcast, cast, intrinsic, splat

# Above every clamp bound, and still an int16 after a zero point was added.
BEYOND = 32000
# Adding 1.5 * 2**23 leaves the integer nearest to a small float in the low mantissa bits.
_MAGIC = 12582912.0
_MAGIC_BITS = 0x4B400000

_CVTPS2DQ = {8: "llvm.x86.avx.cvt.ps2dq.256", 4: "llvm.x86.sse2.cvtps2dq"}


@dataclass(frozen=True)
class Clamp:
    """Zero point and clamp of stored values: int32 scalars.

    Attributes
    ----------
    zero_point, low, high : Expr
    """

    zero_point: Expr
    low: Expr
    high: Expr

    def bounds(self, dtype: str, lanes: int) -> tuple[Expr, Expr]:
        """``low`` and ``high`` less the zero point, in every lane of a vector."""
        limits = (self.low - self.zero_point, self.high - self.zero_point)
        if dtype != "int32":
            limits = tuple(tirx.Cast(dtype, limit) for limit in limits)
        return broadcast(limits[0], lanes), broadcast(limits[1], lanes)

    def apply(self, dtype: str, lanes: int, value: Expr) -> Expr:
        """Clamp a vector that still lacks the zero point."""
        low, high = self.bounds(dtype, lanes)
        return T.min(T.max(value, low), high)


def rounded(
    flavour: str, acc: Expr, params: list[Expr], lanes: int, x86: bool, clamp: Clamp
) -> Expr:
    """Scaled and rounded accumulators, int32; what lies beyond the clamp stays beyond it.

    Parameters
    ----------
    flavour : str
        ``float``, ``fixed_point`` or ``power_of_two``.
    acc : Expr
        int32 vector.
    params : list of Expr
        Vectors of the requantize parameters.
    lanes : int
    x86 : bool
        Use the x86 conversion instruction.
    clamp : Clamp
    """
    if flavour == "fixed_point":
        return _fixed_point(acc, params[0], params[1], lanes)
    if flavour == "power_of_two":
        return _power_of_two(acc, params[0], lanes)
    scaled = cast("float32", lanes, acc) * params[0]
    if not x86:
        # The clamp between the product and the sum also keeps them from becoming an FMA.
        clamped = clamp.apply("float32", lanes, scaled)
        shifted = bits_as("int32", lanes, clamped + splat("float32", _MAGIC, lanes))
        return shifted - splat("int32", _MAGIC_BITS, lanes)
    # Too low converts to INT_MIN, which saturates rightly; too high would do so as well.
    return nearest(T.min(scaled, splat("float32", BEYOND, lanes)), lanes)


def nearest(value: Expr, lanes: int) -> Expr:
    """float32 → int32 by the x86 instruction, half to even."""
    if lanes == 16:
        name = "llvm.x86.avx512.mask.cvtps2dq.512"
        unused, all_lanes = splat("int32", 0, 16), tirx.IntImm("int16", -1)
        current_rounding = tirx.IntImm("int32", 4)
        return intrinsic("int32", 16, name, value, unused, all_lanes, current_rounding)
    return intrinsic("int32", lanes, _CVTPS2DQ[lanes], value)


def _fixed_point(acc: Expr, multiplier: Expr, shift: Expr, lanes: int) -> Expr:
    product = cast("int64", lanes, acc) * cast("int64", lanes, multiplier)
    shift = cast("int64", lanes, shift)
    one = splat("int64", 1, lanes)
    value = (product + (one << (shift - one))) >> shift
    high, low = splat("int64", BEYOND, lanes), splat("int64", -BEYOND, lanes)
    return cast("int32", lanes, T.max(T.min(value, high), low))


def _power_of_two(acc: Expr, shift: Expr, lanes: int) -> Expr:
    zero, one = splat("int32", 0, lanes), splat("int32", 1, lanes)
    right = T.max(shift, one)
    # (acc + 2**(s-1)) >> s without the sum, which might overflow.
    value = (acc >> right) + ((acc >> (right - one)) & one)
    # A value beyond 1024 saturates the output whatever the shift to the left.
    bound = splat("int32", 1024, lanes)
    small = T.max(T.min(acc, bound), zero - bound)
    shifted = small << T.max(zero - shift, zero)
    chosen = tirx.Select(shift > zero, value, shifted)
    return T.min(chosen, splat("int32", BEYOND, lanes))
