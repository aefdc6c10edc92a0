"""The code of one register tile: all turns of the reduction, then the epilogue."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.tir import Expr, cast, i64, load, splat, store
from tvmquant.schedules.neon.epilogue import Epilogue
from tvmquant.schedules.neon.plan import Plan
from tvmquant.schedules.neon.short import Half
from tvmquant.schedules.neon.steps import Sums
from tvmquant.schedules.neon.vectors import wrapping


@dataclass
class Tile:
    """Emitter of one register tile.

    Attributes
    ----------
    plan : Plan
    work, weights, bias : Buffer
        Workspace, weights, bias of every padded channel.
    epilogue : Epilogue
    vectors : int
        Vectors of output channels of the tile.
    valid : int
        How many of their channels exist.
    """

    plan: Plan
    work: Expr
    weights: Expr
    bias: Expr
    epilogue: Epilogue
    vectors: int
    valid: int

    @cached_property
    def _pixels(self) -> list[tuple[int, int]]:
        sizes = self.plan.tiling.sizes
        return [(i, j) for i in range(sizes.rows) for j in range(sizes.columns)]

    @property
    def _quads(self) -> int:
        """int32x4 vectors of a pixel."""
        return self.vectors * self.plan.step.lanes // 4

    def emit(self, x_at: Expr, out_at: Expr, lane: Expr) -> None:
        """Emit the tile.

        Parameters
        ----------
        x_at, out_at : Expr
            Offsets of the first pixel in the workspace, and of its first channel in the output.
        lane : Expr
            Index of the first channel among all padded channels.
        """
        step, g = self.plan.step, self.plan.source.geometry
        sums = step.sums(len(self._pixels), self.vectors)
        base = T.bind(lane * self.plan.channel_weights)
        if isinstance(step, Half):
            results = self._short(step, sums, x_at, base, lane)
        elif step.negative:
            self._zero(sums, 0)
            self._all_runs(sums, x_at, base)
            results = [
                [
                    wrapping("sub", 32, 4, load(self.bias, lane + 4 * quad, 4), value)
                    for quad, value in enumerate(step.results(sums, i))
                ]
                for i in range(len(self._pixels))
            ]
        else:
            self._start(sums, lane)
            self._all_runs(sums, x_at, base)
            results = [step.results(sums, i) for i in range(len(self._pixels))]
        for (i, j), values in zip(self._pixels, results):
            at = out_at + (i * g.out[1] + j) * g.out_channels
            self.epilogue.emit(values, lane, at, self.valid)

    def _start(self, sums: Sums, lane: Expr) -> None:
        """Sums start from the bias."""
        for row in sums:
            quad = 0
            for vector in row:
                if self.plan.step.pixels == 2:
                    both = T.bind(load(self.bias, lane + 4 * quad, 4))
                    for half, register in enumerate(vector):
                        order = [2 * half, 2 * half + 1] * 2
                        register.set(tirx.Shuffle([both], order))
                    quad += 1
                    continue
                for register in vector:
                    register.set(load(self.bias, lane + 4 * quad, 4))
                    quad += 1

    def _all_runs(self, sums: Sums, x_at: Expr, base: Expr) -> None:
        (rows, row_stride), (columns, column_stride) = self.plan.source.runs
        turns, rest = self._turns
        with T.serial(i64(rows)) as i, T.serial(i64(columns)) as j:
            x = T.bind(x_at + i * row_stride + j * column_stride)
            w = T.bind(base + (i * columns + j) * self._run_weights)
            with T.serial(i64(turns)) as turn:
                self._turn(sums, x, w, turn, self._per_turn)
            if rest:
                self._turn(sums, x, w, i64(turns), rest)

    @property
    def _per_turn(self) -> int:
        return self.plan.step.turn // self.plan.step.depth

    @property
    def _turns(self) -> tuple[int, int]:
        """Turns of a run, and pieces of an unfinished one."""
        return divmod(self.plan.pieces, self._per_turn)

    @property
    def _piece_weights(self) -> int:
        step = self.plan.step
        return self.vectors * step.lanes * step.depth

    @property
    def _run_weights(self) -> int:
        return self.plan.pieces * self._piece_weights

    def _turn(self, sums: Sums, x: Expr, w: Expr, turn: Expr, pieces: int) -> None:
        step = self.plan.step
        at = T.bind(x + turn * step.x_turn)
        pixels = [at + self.plan.source.pixel(i64(i), i64(j)) for i, j in self._pixels]
        values = step.values(self.work, pixels)
        weights = T.bind(w + turn * (self._per_turn * self._piece_weights))
        for piece in range(pieces):
            step.piece(sums, values, self.weights, weights + piece * self._piece_weights, piece)

    def _short(
        self, step: Half, sums: Sums, x_at: Expr, base: Expr, lane: Expr
    ) -> list[list[Expr]]:
        """Short sums, moved to wider ones in memory as often as their range demands."""
        pixels = range(len(self._pixels))
        total = self.plan.run_count * self.plan.source.run
        if total <= step.limit and step.memory_dtype == "int32":
            self._clear(step, sums, total)
            self._all_runs(sums, x_at, base)
            return self._with_bias([step.widened(sums, i) for i in pixels], lane, step.start(total))
        lanes = 16 // np.dtype(step.memory_dtype).itemsize
        count = self.vectors * step.lanes // lanes
        places = [[i64((i * count + v) * lanes) for v in range(count)] for i in pixels]
        memory = T.alloc_buffer((i64(len(pixels) * count * lanes),), step.memory_dtype)
        for at in (at for row in places for at in row):
            store(memory, splat(step.memory_dtype, 0, lanes), at, lanes)

        def move() -> None:
            bits = 128 // lanes
            for i in pixels:
                for value, at in zip(step.widened(sums, i), places[i]):
                    held = load(memory, at, lanes)
                    store(memory, wrapping("add", bits, lanes, held, value), at, lanes)

        (rows, row_stride), (columns, column_stride) = self.plan.source.runs
        turns, rest = self._turns
        span = max(1, step.limit // self._per_turn)
        whole, last = divmod(turns, span)
        some = span * self._per_turn
        others = last * self._per_turn + rest
        with T.serial(i64(rows)) as i, T.serial(i64(columns)) as j:
            x = T.bind(x_at + i * row_stride + j * column_stride)
            w = T.bind(base + (i * columns + j) * self._run_weights)
            if whole:
                with T.serial(i64(whole)) as k:
                    self._clear(step, sums, some)
                    with T.serial(i64(span)) as turn:
                        self._turn(sums, x, w, T.bind(k * span + turn), self._per_turn)
                    move()
            if others:
                self._clear(step, sums, others)
                with T.serial(i64(last)) as turn:
                    self._turn(sums, x, w, T.bind(whole * span + turn), self._per_turn)
                if rest:
                    self._turn(sums, x, w, i64(turns), rest)
                move()
        start = rows * columns * (whole * step.start(some) + (step.start(others) if others else 0))
        values = [
            [cast("int32", 4, load(memory, at + q, 4)) for at in row for q in range(0, lanes, 4)]
            for row in places
        ]
        return self._with_bias(values, lane, start)

    def _with_bias(self, values: list[list[Expr]], lane: Expr, start: int) -> list[list[Expr]]:
        """Sums of all pixels plus the bias, less what they started from."""
        offset = splat("int32", start, 4)
        bias = [
            T.bind(wrapping("sub", 32, 4, load(self.bias, lane + 4 * quad, 4), offset))
            for quad in range(self._quads)
        ]
        return [
            [wrapping("add", 32, 4, value, more) for value, more in zip(row, bias)]
            for row in values
        ]

    def _clear(self, step: Half, sums: Sums, values: int) -> None:
        self._zero(sums, step.start(values))

    def _zero(self, sums: Sums, value: int) -> None:
        dtype = self.plan.step.sum_dtype
        for register in (register for row in sums for vector in row for register in vector):
            register.set(splat(dtype, value, register.lanes))
