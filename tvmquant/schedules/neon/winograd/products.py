"""The small matrix products, one a position: tiles × channels times channels × output channels."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.tir import Expr, Register, bits_as, cast, i64, load, splat, store
from tvmquant.schedules.neon.vectors import (
    dot,
    lane,
    multiply_half,
    multiply_long,
    neon,
    part,
    pick,
    wrapping,
)
from tvmquant.schedules.neon.winograd.plan import Plan


@dataclass
class Products:
    """Emitter of the products of one block of tiles, one of output channels and one chunk.

    Attributes
    ----------
    plan : Plan
    x, w : Buffer
        Transformed activations and weights, flat.
    out : Buffer
        Sums ``[position][tile][lane]``, flat.
    """

    plan: Plan
    x: Expr
    w: Expr
    out: Expr

    def emit(self, channel_block: Expr, groups: Expr, first_turn: Expr, turns: Expr) -> None:
        """Compute ``groups`` register blocks of every position, and ``plan.rest`` rows."""
        plan = self.plan
        unit = plan.operands.unit
        with T.serial(i64(plan.algorithm.positions)) as position:
            slot = T.bind(channel_block * plan.algorithm.positions + position)
            w_at = T.bind(slot * (plan.depth * plan.lanes) + first_turn * (plan.lanes * unit))

            def block(group: Expr, rows: int) -> None:
                x_at = position * plan.x_stride + group * (plan.rows * plan.depth)
                out_at = position * plan.sum_stride + group * (plan.rows * plan.lanes)
                self._block(T.bind(x_at + first_turn * unit), w_at, T.bind(out_at), turns, rows)

            with T.serial(groups) as group:
                block(group, plan.rows)
            if plan.rest:
                block(groups, plan.rest)

    def _block(self, x_at: Expr, w_at: Expr, out_at: Expr, turns: Expr, rows: int) -> None:
        plan, operands = self.plan, self.plan.operands
        dtype, lanes, pieces = operands.register_dtype, operands.register_lanes, operands.sums
        sums = [
            [[Register(dtype, lanes) for _ in range(pieces)] for _ in range(plan.vectors)]
            for _ in range(rows)
        ]
        for register in (register for row in sums for vector in row for register in vector):
            register.set(splat(dtype, 0, lanes))
        unit = plan.operands.unit

        def emit_turn(turn: Expr) -> None:
            w, x = T.bind(w_at + turn * (plan.lanes * unit)), T.bind(x_at + turn * unit)
            xs = [T.bind(load(self.x, x + r * plan.depth, unit)) for r in range(rows)]
            for index in range(operands.flush):
                weights = [
                    T.bind(
                        load(
                            self.w, w + (index * plan.vectors + v) * operands.width, operands.width
                        )
                    )
                    for v in range(plan.vectors)
                ]
                for row, value in zip(sums, xs):
                    factor = None
                    if operands.name == "byte":
                        both = pick(value, value, [index] * 16)
                        factor = T.bind(cast("int8", 16, both))
                    for registers, weight in zip(row, weights):
                        if operands.dot:
                            (register,) = registers
                            register.set(dot(register.get(), weight, value, index))
                        elif factor is not None:
                            _multiply_bytes(registers, weight, factor)
                        else:
                            _multiply(registers, weight, value, index)

        # The first turn's multiplications need not add.
        emit_turn(i64(0))
        with T.serial(turns - 1) as turn:
            emit_turn(turn + 1)
        for r, row in enumerate(sums):
            values = [register.get() for registers in row for register in registers]
            if lanes < operands.sum_lanes:
                values = [_low_halves(a, b) for a, b in zip(values[::2], values[1::2])]
            for i, value in enumerate(values):
                at = out_at + (r * plan.lanes + operands.sum_lanes * i)
                store(self.out, value, at, operands.sum_lanes)


def _low_halves(a: Expr, b: Expr) -> Expr:
    """int16x8 of the low halves of two int32x4."""
    a, b = (T.bind(bits_as("int16", 8, value)) for value in (a, b))
    return pick(a, b, list(range(0, 16, 2)))


def _multiply(registers: list[Register], weight: Expr, x: Expr, index: int) -> None:
    if len(registers) == 1:
        registers[0].set(multiply_half(registers[0].get(), weight, lane(x, index, 8)))
        return
    for register, start in zip(registers, (0, 4)):
        register.set(multiply_long(register.get(), part(weight, start, 4), lane(x, index, 4)))


def _multiply_bytes(registers: list[Register], weight: Expr, x: Expr) -> None:
    for register, start in zip(registers, (0, 8)):
        product = neon("int16", 8, "smull.v8i16", part(weight, start, 8), part(x, start, 8))
        register.set(wrapping("add", 16, 8, register.get(), product))
