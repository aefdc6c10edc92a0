"""The kernel of ``tvmquant.dynamic_quantize``: one pass for the range, one for the integers.

Both passes read a piece in steps of whole vectors; the last step moves back inside and does what
is there once more, which changes neither a range nor integers.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvmquant.ops.dynamic import params_shape
from tvmquant.reference.dynamic import TINY
from tvmquant.schedules.floating.frame import begin
from tvmquant.schedules.floating.tiling import Machine, worth_threads
from tvmquant.schedules.linear.rounding import nearest
from tvmquant.schedules.linear.tir import (
    Expr,
    Register,
    bits_as,
    broadcast,
    cast,
    i64,
    intrinsic,
    load,
    splat,
    store,
)
from tvmquant.targets.device import Device

_UNROLL = 4
# One element costs about as much as this many multiply-adds of a layer.
_WORK = 16
_TASKS_PER_CORE = 2
_MAGNITUDE = 0x7FFFFFFF
_INFINITY = 0x7F800000
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class DynamicQuantizeKernel:
    """Makes the PrimFunc ``(x, q, scale, zero_point)``.

    Attributes
    ----------
    shape : tuple of int
        Of ``x``.
    bits : int
    per_row, symmetric : bool
        See :func:`tvmquant.reference.dynamic_quantize`.
    device : Device
    """

    shape: tuple[int, ...]
    bits: int
    per_row: bool
    symmetric: bool
    device: Device

    @property
    def name(self) -> str:
        """Name of the kernel."""
        return "dynamic_quantize_rows" if self.per_row else "dynamic_quantize"

    def prim_func(self) -> tirx.PrimFunc:
        """The function, marked as scheduled."""
        size = prod(self.shape)
        params = tuple(params_shape(list(self.shape), self.per_row))
        with IRBuilder() as builder:
            with T.prim_func(s_tir=True):
                begin(self.name)
                arguments = (
                    ("x", self.shape, "float32"),
                    ("q", self.shape, "uint8"),
                    ("scale", params, "float32"),
                    ("zero_point", params, "uint8"),
                )
                buffers = [
                    T.arg(name, T.buffer(tuple(map(i64, shape)), dtype))
                    for name, shape, dtype in arguments
                ]
                emitter = _Emitter(self, *map(_flat, buffers))
                if size == 0:
                    with T.serial(i64(prod(params))) as row:
                        emitter.params(splat("float32", 0.0, 1), splat("float32", 0.0, 1), row)
                elif self.per_row:
                    emitter.rows(size // self.shape[-1], self.shape[-1])
                else:
                    emitter.tensor(size)
        return builder.get()


@dataclass
class _Range:
    """Scalars: bounds of the values, and the largest magnitude as bits."""

    low: Expr
    high: Expr
    magnitude: Expr


class _Emitter:
    def __init__(
        self, kernel: DynamicQuantizeKernel, x: Any, q: Any, scale: Any, zero_point: Any
    ) -> None:
        self.kernel, self.x, self.q, self.scale, self.zero_point = kernel, x, q, scale, zero_point
        self.machine = Machine.of(kernel.device)
        self.x86 = "ssse3" in kernel.device.features
        self.steps = float(2**kernel.bits - 1)

    def rows(self, count: int, size: int) -> None:
        """One range a row."""
        parallel = worth_threads(count * size * _WORK, self.kernel.device)
        with (T.parallel if parallel else T.serial)(i64(count)) as row:
            start = T.bind(row * size)
            found = self._range(start, size)
            self._quantize(start, size, *self.params(found.low, found.high, row, found.magnitude))

    def tensor(self, size: int) -> None:
        """One range for all, found in pieces."""
        device = self.kernel.device
        parallel = worth_threads(size * _WORK, device)
        tasks = _TASKS_PER_CORE * device.num_cores if parallel else 1
        piece = -(-size // tasks)
        loop = T.parallel if tasks > 1 else T.serial
        parts = [T.alloc_buffer((i64(tasks),), dtype) for dtype in ("float32", "float32", "int32")]
        with loop(i64(tasks)) as task:
            found = self._range(T.bind(tirx.min(task * piece, i64(size - piece))), piece)
            for part, value in zip(parts, (found.low, found.high, found.magnitude)):
                store(part, value, task, 1)
        total = [Register(str(part.dtype), 1) for part in parts]
        for register, part in zip(total, parts):
            register.set(load(part, i64(0), 1))
        if tasks > 1:
            with T.serial(i64(tasks)) as task:
                for register, part, pick in zip(total, parts, (T.min, T.max, T.max)):
                    register.set(pick(register.get(), load(part, task, 1)))
        low, high, magnitude = (T.bind(register.get()) for register in total)
        made = self.params(low, high, i64(0), magnitude)
        with loop(i64(tasks)) as task:
            self._quantize(T.bind(tirx.min(task * piece, i64(size - piece))), piece, *made)

    # -- range ----------------------------------------------------------------------------------
    def _lanes(self, size: int) -> int:
        return next((n for n in (*self.machine.lanes, 2, 1) if n <= size), 1)

    def _range(self, start: Expr, size: int) -> _Range:
        lanes = self._lanes(size)
        zero = splat("float32", 0.0, lanes)
        sets = [
            (Register("float32", lanes), Register("float32", lanes), Register("int32", lanes))
            for _ in range(min(_UNROLL, -(-size // lanes)))
        ]
        for low, high, magnitude in sets:
            low.set(zero)
            high.set(zero)
            magnitude.set(splat("int32", 0, lanes))

        def step(at: Expr, chain: int) -> None:
            low, high, magnitude = sets[chain % len(sets)]
            value = T.bind(load(self.x, at, lanes))
            low.set(T.min(low.get(), value))
            high.set(T.max(high.get(), value))
            bits = bits_as("int32", lanes, value) & splat("int32", _MAGNITUDE, lanes)
            magnitude.set(T.max(magnitude.get(), bits))

        self._walk(start, size, lanes, step)
        picks = (("fmin", T.min), ("fmax", T.max), ("smax", T.max))
        values = []
        for i, (name, pick) in enumerate(picks):
            value = sets[0][i].get()
            for other in sets[1:]:
                value = pick(value, other[i].get())
            dtype = sets[0][i].buffer.dtype
            if lanes > 1:
                value = intrinsic(str(dtype), 1, f"llvm.vector.reduce.{name}", T.bind(value))
            values.append(T.bind(value))
        return _Range(*values)

    def _walk(self, start: Expr, size: int, lanes: int, step: Any) -> None:
        """Call ``step(offset, number)`` for vectors that cover ``size`` elements."""
        whole = size // (lanes * _UNROLL)
        if whole:
            with T.serial(i64(whole)) if whole > 1 else nullcontext(i64(0)) as i:
                base = T.bind(start + i * (lanes * _UNROLL))
                for j in range(_UNROLL):
                    step(base + j * lanes, j)
        done = whole * lanes * _UNROLL
        for j in range(-(-(size - done) // lanes)):
            step(start + min(done + j * lanes, size - lanes), j)

    # -- integers -------------------------------------------------------------------------------
    def params(
        self, low: Expr, high: Expr, index: Expr, magnitude: Expr | None = None
    ) -> tuple[Expr, Expr, Expr]:
        """Store scale and zero point; returns the divisor, the zero point, and what is finite."""
        zero, one = splat("float32", 0.0, 1), splat("float32", 1.0, 1)
        steps = splat("float32", self.steps, 1)
        half = 2.0 ** (self.kernel.bits - 1)
        if self.kernel.symmetric:
            span, parts = T.max(high, zero - low), splat("float32", half - 1, 1)
        else:
            span, parts = T.min(high - low, splat("float32", _LARGEST, 1)), steps
        scale = T.bind(tirx.div(span, parts))
        usable = T.bind(scale >= splat("float32", float(TINY), 1))
        safe = T.bind(tirx.Select(usable, scale, one))
        if self.kernel.symmetric:
            point = splat("float32", half, 1)
        else:
            point = intrinsic("float32", 1, "llvm.nearbyint", tirx.div(zero - low, safe))
        point = tirx.Select(usable, T.min(T.max(point, zero), steps), zero)
        finite = tirx.IntImm("bool", 1)
        if magnitude is not None:
            finite = T.bind(magnitude < tirx.IntImm("int32", _INFINITY))
        point = T.bind(tirx.Cast("int32", tirx.Select(finite, point, zero)))
        nan = tirx.reinterpret("float32", tirx.IntImm("int32", 0x7FC00000))
        store(self.scale, tirx.Select(finite, safe, nan), index, 1)
        store(self.zero_point, tirx.Cast("uint8", point), index, 1)
        return safe, point, finite

    def _quantize(self, start: Expr, size: int, safe: Expr, point: Expr, finite: Expr) -> None:
        lanes = self._lanes(size)
        divisor = broadcast(safe, lanes)
        low = tirx.Cast("float32", tirx.IntImm("int32", 0) - point)
        high = broadcast(T.bind(splat("float32", self.steps, 1) + low), lanes)
        low, points = broadcast(T.bind(low), lanes), broadcast(point, lanes)

        def step(at: Expr, _: int) -> None:
            ratio = T.bind(load(self.x, at, lanes)) / divisor
            # The bounds are integers: it is the same to clamp before the rounding.
            clamped = T.bind(T.min(T.max(ratio, low), high))
            if self.x86 and lanes >= 4:
                value = nearest(clamped, lanes)
            else:
                value = cast("int32", lanes, intrinsic("float32", lanes, "llvm.rint", clamped))
            store(self.q, cast("uint8", lanes, value + points), at, lanes)

        def clear(at: Expr, _: int) -> None:
            store(self.q, splat("uint8", 0, lanes), at, lanes)

        with T.If(finite):
            with T.Then():
                self._walk(start, size, lanes, step)
            with T.Else():
                self._walk(start, size, lanes, clear)


def _flat(buffer: Any) -> Any:
    """One-dimensional view of an argument."""
    size = prod(int(dim) for dim in buffer.shape)
    return T.decl_buffer((i64(max(1, size)),), str(buffer.dtype), data=buffer.data)
