"""What the default rules need to know about a block: axes, accesses, strides, cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import tvm_ffi
from tvm import s_tir, sym, tirx
from tvm.ir import Call, TensorLoad

# Intrinsics that cost many instructions an element; rounding, casts and selects do not.
HEAVY = frozenset(
    f"tirx.{name}"
    for name in (
        "exp exp2 exp10 log log2 log10 log1p erf tanh sigmoid sqrt rsqrt pow sin cos tan "
        "sinh cosh asin acos atan asinh acosh atanh atan2 fmod"
    ).split()
)
_REDUCE = 2  # IterVar.iter_type of a reduction axis


@dataclass(frozen=True)
class Axis:
    """One loop of a nest with the block variable bound to it."""

    loop: Any
    var: tirx.Var
    extent: int
    reduce: bool


@dataclass
class Nest:
    """A leaf block whose loops map one to one to its variables.

    Attributes
    ----------
    sch : s_tir.Schedule
    block : SBlockRV
    stmt : s_tir.SBlock
    axes : list of Axis
        From the outermost loop to the innermost.
    """

    sch: s_tir.Schedule
    block: Any
    stmt: Any
    axes: list[Axis]
    _coefficients: dict[Any, int | None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the block."""
        return str(self.stmt.name_hint)

    @property
    def spatial(self) -> list[Axis]:
        """Axes that index the output."""
        return [axis for axis in self.axes if not axis.reduce]

    @property
    def reduction(self) -> list[Axis]:
        """Axes that are summed over."""
        return [axis for axis in self.axes if axis.reduce]

    @cached_property
    def store(self) -> tirx.BufferStore | None:
        """The only store of the block, ``None`` if it has several."""
        body = self.stmt.body
        return body if isinstance(body, tirx.BufferStore) else None

    @cached_property
    def loads(self) -> list[TensorLoad]:
        """Distinct loads of the body, without those of the accumulator."""
        written = [region.source for region in self.stmt.writes]
        found: list[TensorLoad] = []

        def visit(load: TensorLoad) -> None:
            if not any(load.source.same_as(buffer) for buffer in written) and not any(
                tvm_ffi.structural_equal(load, other) for other in found
            ):
                found.append(load)

        tvm_ffi.structural_walk(self.stmt.body, (TensorLoad, visit))
        return found

    @property
    def iterations(self) -> int:
        """Number of times the body runs."""
        return prod(axis.extent for axis in self.axes)

    @cached_property
    def heavy(self) -> bool:
        """Whether the body calls a transcendental function."""
        found = []

        def visit(call: Call) -> None:
            if str(getattr(call.op, "name", "")) in HEAVY:
                found.append(call)

        tvm_ffi.structural_walk(self.stmt.body, (Call, visit))
        return bool(found)

    @property
    def nanoseconds(self) -> float:
        """Rough time on one core, from vectorized loops in the first-level cache."""
        if self.heavy:
            return 1.5 * self.iterations
        if not self.reduction:
            return 0.07 * self.iterations
        return 0.012 * self.iterations * self.stmt.writes[0].source.dtype.bits / 8

    def stride(self, access: Any, axis: Axis) -> int | None:
        """Elements that ``access`` moves when ``axis`` advances; ``None`` if not constant."""
        key = (id(access), id(axis.var))
        if key not in self._coefficients:
            self._coefficients[key] = _stride(access, axis.var)
        return self._coefficients[key]


def _stride(access: Any, var: tirx.Var) -> int | None:
    buffer = access.buffer if isinstance(access, tirx.BufferStore) else access.source
    total, step = 0, 1
    for size, index in zip(reversed(list(buffer.shape)), reversed(list(access.indices))):
        linear = sym.detect_linear_equation(index, [var])
        if len(linear) != 2 or not isinstance(linear[0], tirx.IntImm):
            return None
        if _mentions(linear[1], var):
            return None
        total += int(linear[0]) * step
        step *= int(size)
    return total


def _mentions(expr: Any, var: tirx.Var) -> bool:
    found: list[bool] = []
    tvm_ffi.structural_walk(expr, (tirx.Var, lambda v: found.append(v.same_as(var)) or None))
    return any(found)


def nest_of(sch: s_tir.Schedule, block: Any) -> Nest | None:
    """Describe a block; ``None`` unless its loops are a plain nest of constant extents."""
    stmt = sch.get(block)
    loops = sch.get_loops(block)
    if not loops or len(loops) != len(stmt.iter_vars) or _has_nested_block(stmt):
        return None
    fors = [sch.get(loop) for loop in loops]
    bindings = list(fors[-1].body.iter_values) if hasattr(fors[-1].body, "iter_values") else []
    axes = []
    for loop, stmt_for, iter_var, binding in zip(loops, fors, stmt.iter_vars, bindings):
        plain = (
            isinstance(stmt_for.extent, tirx.IntImm)
            and int(stmt_for.min) == 0
            and stmt_for.loop_var.same_as(binding)
        )
        if not plain:
            return None
        axes.append(Axis(loop, iter_var.var, int(stmt_for.extent), iter_var.iter_type == _REDUCE))
    return Nest(sch, block, stmt, axes) if len(axes) == len(loops) else None


def _has_nested_block(stmt: Any) -> bool:
    found: list[Any] = []
    tvm_ffi.structural_walk(stmt.body, (s_tir.SBlock, found.append))
    return bool(found)


def leaf_blocks(sch: s_tir.Schedule) -> list[Any]:
    """Blocks directly under the root, in program order."""
    return list(sch.get_child_blocks(sch.get_sblock("root")))


def largest_divisor(value: int, limit: int) -> int:
    """Largest divisor of ``value`` that does not exceed ``limit``."""
    return next(d for d in range(min(value, limit), 0, -1) if value % d == 0)


def epilogue_of(nest: Nest) -> Any | None:
    """The elementwise block that alone reads the result, element by element."""
    consumers = nest.sch.get_consumers(nest.block)
    if len(consumers) != 1 or nest.store is None:
        return None
    consumer = nest_of(nest.sch, consumers[0])
    if consumer is None or consumer.reduction or consumer.store is None:
        return None
    shape = [int(dim) for dim in nest.store.buffer.shape]
    return consumers[0] if [axis.extent for axis in consumer.axes] == shape else None
