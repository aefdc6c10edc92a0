"""Vectors of the generated code with arithmetic that wraps.

TVM marks additions and multiplications of 32 bits and more as free of overflow, which would let
LLVM draw wrong conclusions here: they are written as vector-predicated intrinsics over all lanes,
which carry no such mark and become the plain instructions. Narrower types need no care.
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.tir import Expr, broadcast, intrinsic, splat


def wrapping(op: str, lanes: int, a: Expr, b: Expr) -> Expr:
    """``add``, ``sub`` or ``mul`` of int32 vectors modulo 2**32."""
    every = broadcast(tirx.IntImm("bool", 1), lanes)
    count = tirx.IntImm("int32", lanes)
    return intrinsic("int32", lanes, f"llvm.vp.{op}.v{lanes}i32", a, b, every, count)


class Value:
    """A vector of integers, bound to a variable.

    Parameters
    ----------
    dtype : str
        Element type: int32, int16 or uint8.
    lanes : int
    expr : Expr
    """

    def __init__(self, dtype: str, lanes: int, expr: Expr) -> None:
        self.dtype, self.lanes = dtype, lanes
        self.expr = T.bind(expr)

    def _with(self, expr: Expr) -> Value:
        return Value(self.dtype, self.lanes, expr)

    def _wrapping(self, op: str, other: Value) -> Value:
        return self._with(wrapping(op, self.lanes, self.expr, other.expr))

    def __add__(self, other: Value) -> Value:
        if self.dtype == "int32":
            return self._wrapping("add", other)
        return self._with(self.expr + other.expr)

    def __sub__(self, other: Value) -> Value:
        if self.dtype == "int32":
            return self._wrapping("sub", other)
        return self._with(self.expr - other.expr)

    def __lshift__(self, bits: int) -> Value:
        return self._with(self.expr << splat(self.dtype, bits, self.lanes))

    def __rshift__(self, bits: int) -> Value:
        return self._with(self.expr >> splat(self.dtype, bits, self.lanes))

    def times(self, factor: int) -> Value:
        """Product with a constant, modulo 2**32 for int32."""
        constant = splat(self.dtype, factor, self.lanes)
        if self.dtype == "int32":
            return self._with(wrapping("mul", self.lanes, self.expr, constant))
        return self._with(self.expr * constant)
