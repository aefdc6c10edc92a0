"""Depthwise convolution with ``sdot``: four lines of one channel are multiplied and added at once.

A tile is several output rows high, as many as read no more groups of four lines than one row
does: they share the interleaved lines and differ in their weights, which meet other lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.depthwise.plan import tile_taps
from tvmquant.schedules.linear.tir import Expr, bits_as, broadcast, i64, load, splat, store
from tvmquant.schedules.neon.depthwise.plan import WIDTH, Bias, Finish, Plan, Task
from tvmquant.schedules.neon.vectors import neon
from tvmquant.schedules.workload import Workload

GROUP = 4
_QUADS = GROUP * WIDTH
# Columns that one turn of the copying loop takes.
_UNROLL = 4


@dataclass(frozen=True)
class Dots:
    """What is multiplied: lines ``row * stride + lines[i]`` of a tile by rows of the kernel.

    Attributes
    ----------
    workload : Workload
        ``depthwise_conv2d``.
    mixed : bool
        Whether unsigned activations can be multiplied by signed weights (``usdot``).
    """

    workload: Workload
    mixed: bool = False

    colours: ClassVar[int] = 1

    @property
    def mask(self) -> int:
        """What activations are combined with by exclusive or."""
        return 0x80 if self.workload.x_bits == 8 and not self.mixed else 0

    @cached_property
    def rows(self) -> int:
        """Output rows of a tile."""
        slots = [len(self._cut(rows)[0]) for rows in range(1, GROUP + 2)]
        most = max(r + 1 for r, lines in enumerate(slots) if -(-lines // GROUP) == self._fewest)
        return min(most, self.workload.out_shape[1])

    @property
    def lines(self) -> tuple[int, ...]:
        """Lines that a tile reads, relative to its first one."""
        return self._cut(self.rows)[0]

    @property
    def taps(self) -> tuple[tuple[int, int, tuple[int | None, ...]], ...]:
        """``(row, slot, kernel rows)`` as :attr:`tvmquant.schedules.depthwise.plan.Plan.taps`."""
        return self._cut(self.rows)[1]

    @property
    def slots(self) -> int:
        """Groups of lines."""
        return -(-len(self.lines) // GROUP)

    def correction(self, weight: np.ndarray, colour: int) -> np.ndarray:
        """int64 ``[O]``: what sums over the stored values of int8 ``[O, KH, KW, 1]`` lack."""
        return self.mask * weight.astype(np.int64).reshape(len(weight), -1).sum(axis=1)

    @property
    def _fewest(self) -> int:
        return -(-len(self._cut(1)[0]) // GROUP)

    def _cut(self, rows: int) -> Any:
        w = self.workload
        return tile_taps(rows, w.w_shape[1], w.strides[0], w.dilation[0], GROUP)

    def dot(self, acc: Expr, x: Expr, w: Expr) -> Expr:
        """int32x4 ``acc`` plus four products a lane."""
        if self.mixed:
            return neon("int32", 4, "usdot.v4i32.v16i8", acc, bits_as("uint8", WIDTH, x), w)
        return neon("int32", 4, "sdot.v4i32.v16i8", acc, x, w)


@dataclass
class DotTiles:
    """Emitter of the tiles of one task.

    Attributes
    ----------
    plan : Plan
    dots : Dots
    x : Buffer
        Flat input.
    zero_point : Expr
        uint8 padding value.
    """

    plan: Plan
    dots: Dots
    x: Expr
    zero_point: Expr

    def begin(self, task: Task, taps: Expr) -> None:
        """Interleave the weights ``[KW * KH, WIDTH]`` of the block: ``[kw, tap, quad]``."""
        self.task = task
        dots, (kh, kw) = self.dots, self.plan.workload.w_shape[1:3]
        self.weights = T.alloc_buffer((i64(kw * len(dots.taps) * _QUADS),), "int8")
        zero = splat("int8", 0, WIDTH)
        with T.serial(i64(kw)) as j:
            for index, (_, _, rows) in enumerate(dots.taps):
                lines = [
                    zero if row is None else T.bind(load(taps, (j * kh + row) * WIDTH, WIDTH))
                    for row in rows
                ]
                at = (j * len(dots.taps) + index) * _QUADS
                store(self.weights, _interleaved(lines), at, _QUADS)
        size = dots.slots * self.plan.read_columns * _QUADS
        self.work = T.alloc_buffer((i64(size),), "int8")

    def row(self, row: Expr) -> None:
        """Interleave the lines of tiles at row ``row`` of the task: ``[slot, column, quad]``."""
        w, dots = self.plan.workload, self.dots
        height = w.x_shape[1]
        top = T.bind((self.task.first + row) * w.strides[0] - w.padding[0])
        last = (w.out_shape[1] - dots.rows) * w.strides[0] - w.padding[0] + dots.lines[-1]
        if w.padding[0] == 0 and last < height:
            self._copy(top, False)
            return
        with T.If(tirx.all(top >= 0, top + dots.lines[-1] < height)):
            with T.Then():
                self._copy(top, False)
            with T.Else():
                self._copy(top, True)

    def _copy(self, top: Expr, border: bool) -> None:
        w, dots, task = self.plan.workload, self.dots, self.task
        columns = self.plan.read_columns
        _, height, width, channels = w.x_shape
        before = min(w.padding[1], columns)
        inside = max(0, min(columns - before, width))
        fill = T.bind(self._stored(broadcast(self.zero_point, WIDTH)))
        starts, there = [], []
        for line in dots.lines:
            row = top + line
            if border:
                there.append(T.bind(tirx.all(row >= 0, row < height)))
                row = tirx.max(tirx.min(row, i64(height - 1)), i64(0))
            at = (task.image * height + row) * (width * channels) + task.channel
            starts.append(T.bind(at))

        def column(slot: int, index: Expr) -> None:
            lines = []
            for i in range(slot * GROUP, min(len(starts), (slot + 1) * GROUP)):
                value = self._stored(load(self.x, starts[i] + index * channels, WIDTH))
                if border:
                    value = tirx.Select(broadcast(there[i], WIDTH), value, fill)
                lines.append(T.bind(value))
            # What stands in for missing lines meets zero weights only.
            lines += [lines[-1]] * (GROUP - len(lines))
            at = (slot * columns + before + index) * _QUADS
            store(self.work, _interleaved(lines), at, _QUADS)

        for slot in range(dots.slots):
            for first, count in ((0, before), (before + inside, columns - before - inside)):
                if count:
                    with T.serial(i64(count * GROUP)) as i:
                        at = (slot * columns + first) * _QUADS + i * WIDTH
                        store(self.work, fill, at, WIDTH)
            if inside >= _UNROLL:
                with T.serial(i64(inside // _UNROLL)) as turn:
                    for i in range(_UNROLL):
                        column(slot, T.bind(turn * _UNROLL + i))
            for i in range(inside // _UNROLL * _UNROLL, inside):
                column(slot, i64(i))

    def _stored(self, value: Expr) -> Expr:
        if self.dots.mask:
            value = value ^ splat("uint8", self.dots.mask, WIDTH)
        return bits_as("int8", WIDTH, value)

    def tile(self, row: Expr, column: Expr, bias: Bias, finish: Finish) -> None:
        """Sums of the pixels of a tile: for each of them four int32x4."""
        plan, dots, w = self.plan, self.dots, self.plan.workload
        pixels = [(r, p) for r in range(dots.rows) for p in range(plan.sizes.columns)]
        at = T.bind(column * (w.strides[1] * _QUADS))
        found: dict[tuple[int, int], list[Expr]] = {pixel: [] for pixel in pixels}
        for quad in range(4):
            sums = {pixel: bias(0)[quad] for pixel in pixels}
            for slot in range(dots.slots):
                for j in range(w.w_shape[2]):
                    values = [
                        T.bind(load(self.work, at + self._offset(slot, j, p, quad), WIDTH))
                        for p in range(plan.sizes.columns)
                    ]
                    for index, (r, of, _) in enumerate(dots.taps):
                        if of != slot:
                            continue
                        place = (j * len(dots.taps) + index) * _QUADS + quad * WIDTH
                        weight = T.bind(load(self.weights, i64(place), WIDTH))
                        for p, value in enumerate(values):
                            sums[r, p] = T.bind(dots.dot(sums[r, p], value, weight))
            for pixel in pixels:
                found[pixel].append(sums[pixel])
        finish(found)

    def _offset(self, slot: int, j: int, pixel: int, quad: int) -> int:
        w = self.plan.workload
        column = pixel * w.strides[1] + j * w.dilation[1]
        return (slot * self.plan.read_columns + column) * _QUADS + quad * WIDTH


def _interleaved(lines: list[Expr]) -> Expr:
    """Four vectors as one, their lanes in turn: with a store, one instruction (``st4``)."""
    order = [line * WIDTH + lane for lane in range(WIDTH) for line in range(GROUP)]
    return tirx.Shuffle(lines, order)
