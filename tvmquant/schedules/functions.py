"""What generated PrimFuncs are made with: arguments, names, loops."""

from __future__ import annotations

import math
from typing import Any

from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.tir import Expr, i64


def argument(name: str, shape: tuple[int, ...], dtype: str) -> Expr:
    """Declare a buffer argument."""
    return T.arg(name, T.Buffer(tuple(i64(d) for d in shape), dtype))


def mark(name: str) -> None:
    """Name the function and mark it as scheduled."""
    T.func_name(name)
    attrs = {"global_symbol": name, "tirx.noalias": True, "op_pattern": 8}
    T.func_attr({**attrs, "tvmquant.scheduled": True})


def flat(buffer: Expr) -> Expr:
    """One-dimensional view of a buffer."""
    size = math.prod(int(extent) for extent in buffer.shape)
    return T.decl_buffer((i64(size),), str(buffer.dtype), data=buffer.data)


def loop(extent: Any, parallel: bool) -> Any:
    """Loop whose turns threads may share."""
    return (T.parallel if parallel else T.serial)(
        i64(extent) if isinstance(extent, int) else extent
    )
