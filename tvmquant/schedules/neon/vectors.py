"""Short names for the vector expressions of the NEON kernels.

Multiplications by a scalar are written as multiplications by a lane of a register that was loaded
whole: LLVM then takes the by-element form of the instruction and needs no broadcast.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from tvmquant.schedules.linear.tir import Expr, bits_as, broadcast, intrinsic

_PREFIX = "llvm.aarch64.neon."


def neon(dtype: str, lanes: int, name: str, *args: Expr) -> Expr:
    """Call of an intrinsic ``llvm.aarch64.neon.<name>``."""
    return intrinsic(dtype, lanes, _PREFIX + name, *args)


def wrapping(op: str, bits: int, lanes: int, a: Expr, b: Expr) -> Expr:
    """``add``, ``sub`` or ``mul`` of integer vectors modulo ``2**bits``.

    TVM marks plain additions of 32 bits as free of overflow, and LLVM reorders plain sums, which
    keeps it from fusing multiplications and additions. Vector-predicated operations over all
    lanes do neither and become the plain instructions.
    """
    every = broadcast(tirx.IntImm("bool", 1), lanes)
    count = tirx.IntImm("int32", lanes)
    return intrinsic(f"int{bits}", lanes, f"llvm.vp.{op}.v{lanes}i{bits}", a, b, every, count)


def constants(dtype: str, values: Sequence[int]) -> Expr:
    """Constant vector of different lanes."""
    return tirx.Shuffle([tirx.IntImm(dtype, value) for value in values], list(range(len(values))))


def lane(vector: Expr, index: int, lanes: int) -> Expr:
    """One lane of a vector in all of ``lanes``."""
    return tirx.Shuffle([vector], [index] * lanes)


def part(vector: Expr, start: int, lanes: int) -> Expr:
    """``lanes`` neighbouring lanes."""
    return tirx.Shuffle([vector], list(range(start, start + lanes)))


def concat(a: Expr, b: Expr, lanes: int) -> Expr:
    """Two vectors of ``lanes`` lanes as one."""
    return tirx.Shuffle([a, b], list(range(2 * lanes)))


def pick(a: Expr, b: Expr, indices: Sequence[int]) -> Expr:
    """The lanes of two vectors that ``indices`` name."""
    return tirx.Shuffle([a, b], list(indices))


def multiply_long(acc: Expr, a: Expr, b: Expr) -> Expr:
    """int32x4 ``acc + a * b`` of int16x4 (``smlal``)."""
    return wrapping("add", 32, 4, acc, neon("int32", 4, "smull.v4i32", a, b))


def multiply_half(acc: Expr, a: Expr, b: Expr) -> Expr:
    """int16x8 ``acc + a * b`` modulo 2**16 (``mla``)."""
    return wrapping("add", 16, 8, acc, wrapping("mul", 16, 8, a, b))


def dot(acc: Expr, w: Expr, x: Expr, index: int) -> Expr:
    """int32x4 accumulator after ``sdot`` of int8x16 ``w`` with 4 bytes of int8x16 ``x``."""
    four = bits_as("int8", 16, lane(bits_as("int32", 4, x), index, 4))
    return neon("int32", 4, "sdot.v4i32.v16i8", acc, w, four)


def matrix(acc: Expr, x: Expr, w: Expr) -> Expr:
    """int32x4 accumulator after ``usmmla`` of two rows of uint8 with two rows of int8."""
    return neon("int32", 4, "usmmla.v4i32.v16i8", acc, x, w)
