"""The small matrix products, one a position: tiles × channels times channels × output channels."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.tir import Expr, Register, cast, i64, load, splat, store
from tvmquant.schedules.neon.vectors import (
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
        dtype, lanes, pieces = operands.sum_dtype, operands.sum_lanes, operands.sums
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
            for index in range(unit):
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
                    if operands.byte:
                        both = pick(value, value, [index] * 16)
                        factor = T.bind(cast("int8", 16, both))
                    for registers, weight in zip(row, weights):
                        if factor is not None:
                            _multiply_bytes(registers, weight, factor)
                        else:
                            _multiply(registers, weight, value, index)

        # The first turn's multiplications need not add.
        emit_turn(i64(0))
        with T.serial(turns - 1) as turn:
            emit_turn(turn + 1)
        for r, row in enumerate(sums):
            for v, registers in enumerate(row):
                for i, register in enumerate(registers):
                    at = out_at + (r * plan.lanes + operands.lanes * v + lanes * i)
                    store(self.out, register.get(), at, lanes)


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
