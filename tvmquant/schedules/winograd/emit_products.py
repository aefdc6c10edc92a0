"""The small matrix products, one a position: tiles × channels times channels × output channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.tir import Expr, Register, cast, i64, load, splat, store
from tvmquant.schedules.winograd.plan import Plan
from tvmquant.schedules.winograd.values import wrapping

_LINE = 64  # bytes of a cache line


@dataclass
class Products:
    """Emitter of the products of one block of tiles and one block of output channels.

    Attributes
    ----------
    plan : Plan
    x : Buffer
        Transformed activations, flat.
    w : Buffer
        Transformed weights, flat.
    offsets : Buffer or None
        What is added to the sums: int32 ``[channel block, position, lane]``, flat.
    out : Buffer
        ``plan.sum_dtype``, ``[position][tile][lane]``, flat.
    """

    plan: Plan
    x: Expr
    w: Expr
    offsets: Expr | None
    out: Expr

    def emit(self, channel_block: Expr, groups: Expr) -> None:
        """Compute ``groups`` register blocks of every position."""
        plan = self.plan
        positions, depth = plan.algorithm.positions, plan.depth
        with T.serial(i64(positions)) as position:
            slot = T.bind(channel_block * positions + position)
            w_at = T.bind(slot * (depth * plan.lanes))
            with T.serial(groups) as group:
                x_at = T.bind(position * plan.x_stride + group * (plan.rows * depth))
                out_at = position * plan.sum_stride + group * (plan.rows * plan.lanes)
                start = T.bind(slot * plan.lanes)
                self._block(x_at, w_at, start, T.bind(out_at), group)

    def _prefetch(self, w_at: Expr, group: Expr, turn: Expr) -> None:
        """Fetch a part of the next position's weights: every group its share."""
        plan = self.plan
        share = plan.prefetch_share
        start = T.bind(w_at + plan.depth * plan.lanes + (group * plan.turns + turn) * share)
        line = _LINE // np.dtype(plan.operands.dtype).itemsize
        for i in range(-(-share // line)):
            place = T.address_of(self.w[start + i * line])
            read, near, data = T.int32(0), T.int32(3), T.int32(1)
            T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch.p0", place, read, near, data))

    def _block(self, x_at: Expr, w_at: Expr, start: Expr, out_at: Expr, group: Expr) -> None:
        plan, operands = self.plan, self.plan.operands
        lanes, step, width = operands.lanes, operands.step, operands.width
        columns = range(plan.vectors)
        sums = [[Register("int32", lanes) for _ in columns] for _ in range(plan.rows)]
        for row in sums:
            for register in row:
                register.set(splat("int32", 0, lanes))
        with T.serial(i64(plan.turns)) as turn:
            w = T.bind(w_at + turn * (plan.lanes * operands.unit))
            x = T.bind(x_at + turn * operands.unit)
            self._prefetch(w_at, group, turn)
            weights = [
                [
                    T.bind(load(self.w, w + (part * plan.vectors + v) * width, width))
                    for part in range(operands.flush)
                ]
                for v in columns
            ]
            for r, row in enumerate(sums):
                values = [
                    T.bind(operands.load_x(self.x, x + (r * plan.depth + part * step)))
                    for part in range(operands.flush)
                ]
                for register, weight in zip(row, weights):
                    register.set(operands.dot(register.get(), values, weight))
        for r, row in enumerate(sums):
            for v, register in enumerate(row):
                value = register.get()
                if self.offsets is not None:
                    value = wrapping(
                        "add", lanes, value, load(self.offsets, start + v * lanes, lanes)
                    )
                value = cast(plan.sum_dtype, lanes, value) if plan.sum_dtype != "int32" else value
                store(self.out, value, out_at + (r * plan.lanes + v * lanes), lanes)
