"""Tiles of depthwise outputs as chains of products, see :mod:`.chains`."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.tir import Expr, cast, i64, load, splat
from tvmquant.schedules.neon.depthwise.chains import Chain, Form
from tvmquant.schedules.neon.depthwise.copy import Copy
from tvmquant.schedules.neon.depthwise.plan import WIDTH, Bias, Finish, Plan, Task
from tvmquant.schedules.neon.vectors import neon, part, wrapping


@dataclass
class ChainTiles:
    """Emitter of the tiles of one task.

    Attributes
    ----------
    plan : Plan
    form : Form
    x : Buffer
        Flat input.
    zero_point : Expr
        uint8 padding value.
    """

    plan: Plan
    form: Form
    x: Expr
    zero_point: Expr

    def begin(self, task: Task, taps: Expr) -> None:
        """Copy the input of a task; its weights are int8 ``[KW * KH, WIDTH]``."""
        plan = self.plan
        size = plan.lines(plan.sizes.band) * plan.read_columns * WIDTH
        self.taps, self.work = taps, T.alloc_buffer((i64(size),), "int8")
        Copy(plan, self.form, self.x, self.zero_point).emit(self.work, task)

    def row(self, row: Expr) -> None:
        """Nothing to prepare for a row."""

    def tile(self, row: Expr, column: Expr, bias: Bias, finish: Finish) -> None:
        """Sums of the pixels of a tile: for each of them four int32x4."""
        w = self.plan.workload
        line, across = row * w.strides[0], column * w.strides[1]
        at = T.bind((line * self.plan.read_columns + across) * WIDTH)
        if self.form.colours == 1:
            finish(self._sums(at, bias, 0))
            return
        with T.If((line + across) % 2 == 0):
            with T.Then():
                finish(self._sums(at, bias, 0))
            with T.Else():
                finish(self._sums(at, bias, 1))

    def _sums(self, at: Expr, bias: Bias, colour: int) -> dict[tuple[int, int], list[Expr]]:
        pixels = range(self.plan.sizes.columns)
        step = self.plan.workload.strides[1]
        colours = [(colour + pixel * step) % self.form.colours for pixel in pixels]
        sums = [bias(c) for c in colours]
        for chains in zip(*map(self.form.chains, range(self.form.colours))):
            factors = {tap: T.bind(self._weight(tap)) for tap in chains[0].taps}
            for pixel in pixels:
                chain = chains[colours[pixel]]
                values = [
                    T.bind(load(self.work, at + self._offset(tap, pixel), WIDTH))
                    for tap in chain.taps
                ]
                chosen = [factors[tap] for tap in chain.taps]
                sums[pixel] = _add(chain, sums[pixel], values, chosen)
        return {(0, pixel): sums[pixel] for pixel in pixels}

    def _weight(self, tap: tuple[int, int]) -> Expr:
        index = tap[1] * self.plan.workload.w_shape[1] + tap[0]
        return load(self.taps, i64(index * WIDTH), WIDTH)

    def _offset(self, tap: tuple[int, int], pixel: int) -> int:
        """Offset of an activation in the workspace from the first one of the tile."""
        w = self.plan.workload
        column = pixel * w.strides[1] + tap[1] * w.dilation[1]
        return (tap[0] * w.dilation[0] * self.plan.read_columns + column) * WIDTH


def _add(chain: Chain, sums: list[Expr], values: list[Expr], factors: list[Expr]) -> list[Expr]:
    """Sums of 16 channels, four int32x4, plus those of a chain."""
    found = []
    for half in (0, 8):
        total = splat("int16", chain.start, 8) if chain.start else None
        for value, factor, sign in zip(values, factors, chain.signs):
            product = neon("int16", 8, "smull.v8i16", part(value, half, 8), part(factor, half, 8))
            if total is None:
                total = product
            else:
                total = wrapping("add" if sign > 0 else "sub", 16, 8, total, product)
        total = T.bind(total)
        for quad in (0, 4):
            more = cast("int32", 4, part(total, quad, 4))
            acc = sums[(half + quad) // 4]
            op = "add" if chain.sign > 0 else "sub"
            found.append(T.bind(wrapping(op, 32, 4, acc, more)))
    return found
