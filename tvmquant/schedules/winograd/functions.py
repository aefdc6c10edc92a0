"""What every PrimFunc of this package begins with."""

from __future__ import annotations

from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.tir import Expr, i64


def argument(name: str, shape: tuple[int, ...], dtype: str) -> Expr:
    """Declare a buffer argument."""
    return T.arg(name, T.Buffer(tuple(i64(d) for d in shape), dtype))


def mark(name: str) -> None:
    """Name the function and mark it as scheduled."""
    T.func_attr(
        {
            "global_symbol": name,
            "tirx.noalias": True,
            "tvmquant.scheduled": True,
            "op_pattern": 8,
        }
    )


def flat(buffer: Expr) -> Expr:
    """One-dimensional view of a buffer."""
    count = 1
    for extent in buffer.shape:
        count *= int(extent)
    return T.decl_buffer((i64(count),), str(buffer.dtype), data=buffer.data)
