"""Short names for the TIR expressions that the kernel generators write."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

Expr = Any


def i64(value: int) -> Expr:
    """int64 constant: every index is 64 bits wide, like the extents of the buffers."""
    return tirx.IntImm("int64", value)


def vector(dtype: str, lanes: int) -> str:
    """Name of a vector type, for example ``int32x16``."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def ramp(base: Expr, lanes: int) -> Expr:
    """``lanes`` consecutive indices from ``base``."""
    return base if lanes == 1 else tirx.Ramp(base, i64(1), lanes)


def load(buffer: Expr, base: Expr, lanes: int) -> Expr:
    """Load ``lanes`` consecutive elements of a flat buffer."""
    return buffer[ramp(base, lanes)]


def store(buffer: Expr, value: Expr, base: Expr, lanes: int) -> None:
    """Store ``lanes`` consecutive elements into a flat buffer."""
    T.buffer_store(buffer, value, [ramp(base, lanes)])


def broadcast(value: Expr, lanes: int) -> Expr:
    """The scalar ``value`` in every lane."""
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def splat(dtype: str, value: float, lanes: int) -> Expr:
    """Constant vector."""
    make = tirx.FloatImm if dtype.startswith("float") else tirx.IntImm
    return broadcast(make(dtype, value), lanes)


def cast(dtype: str, lanes: int, value: Expr) -> Expr:
    """Convert every lane."""
    return tirx.Cast(vector(dtype, lanes), value)


def bits_as(dtype: str, lanes: int, value: Expr) -> Expr:
    """The same bits under another type."""
    return T.reinterpret(vector(dtype, lanes), value)


def intrinsic(dtype: str, lanes: int, name: str, *args: Expr) -> Expr:
    """Call of an LLVM intrinsic without side effects."""
    return T.call_llvm_pure_intrin(vector(dtype, lanes), name, *args)


class Register:
    """A vector variable: a local buffer with constant indices, which LLVM keeps in a register."""

    def __init__(self, dtype: str, lanes: int) -> None:
        self.lanes = lanes
        # No scope: "local" would make this TVM allocate a workspace on the heap for each.
        self.buffer = T.alloc_buffer((i64(lanes),), dtype)

    def get(self) -> Expr:
        """Value of the variable."""
        return load(self.buffer, i64(0), self.lanes)

    def set(self, value: Expr) -> None:
        """Emit the assignment."""
        store(self.buffer, value, i64(0), self.lanes)
