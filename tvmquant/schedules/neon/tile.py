"""The code of one register tile: all turns of the reduction, then the epilogue."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.tir import Expr, i64, load, splat, store
from tvmquant.schedules.neon.epilogue import Epilogue
from tvmquant.schedules.neon.plan import Plan
from tvmquant.schedules.neon.steps import Half, Sums
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
        at = T.bind(x + turn * step.turn)
        pixels = [at + self.plan.source.pixel(i64(i), i64(j)) for i, j in self._pixels]
        values = step.values(self.work, pixels)
        weights = T.bind(w + turn * (self._per_turn * self._piece_weights))
        for piece in range(pieces):
            step.piece(sums, values, self.weights, weights + piece * self._piece_weights, piece)

    def _short(
        self, step: Half, sums: Sums, x_at: Expr, base: Expr, lane: Expr
    ) -> list[list[Expr]]:
        """Sums in int16, moved to int32 in memory as often as their range demands."""
        pixels = range(len(self._pixels))
        quads = [4 * q for q in range(self._quads)]

        def with_bias(values: list[list[Expr]]) -> list[list[Expr]]:
            return [
                [
                    wrapping("add", 32, 4, value, load(self.bias, lane + quad, 4))
                    for value, quad in zip(row, quads)
                ]
                for row in values
            ]

        total = self.plan.run_count * self.plan.source.run
        if total <= step.limit:
            self._clear(step, sums, total)
            self._all_runs(sums, x_at, base)
            return with_bias([step.widened(sums, i, total) for i in pixels])
        memory = T.alloc_buffer((i64(len(pixels) * 4 * len(quads)),), "int32")
        for i in pixels:
            for quad in quads:
                store(memory, splat("int32", 0, 4), i64(i * 4 * len(quads) + quad), 4)

        def move(values: int) -> None:
            for i in pixels:
                for value, quad in zip(step.widened(sums, i, values), quads):
                    at = i64(i * 4 * len(quads) + quad)
                    store(memory, wrapping("add", 32, 4, load(memory, at, 4), value), at, 4)

        (rows, row_stride), (columns, column_stride) = self.plan.source.runs
        turns, rest = self._turns
        span = max(1, step.limit // self._per_turn)
        with T.serial(i64(rows)) as i, T.serial(i64(columns)) as j:
            x = T.bind(x_at + i * row_stride + j * column_stride)
            w = T.bind(base + (i * columns + j) * self._run_weights)
            whole, last = divmod(turns, span)
            if whole:
                with T.serial(i64(whole)) as k:
                    self._clear(step, sums, span * self._per_turn)
                    with T.serial(i64(span)) as turn:
                        self._turn(sums, x, w, T.bind(k * span + turn), self._per_turn)
                    move(span * self._per_turn)
            if last or rest:
                values = last * self._per_turn + rest
                self._clear(step, sums, values)
                with T.serial(i64(last)) as turn:
                    self._turn(sums, x, w, T.bind(whole * span + turn), self._per_turn)
                if rest:
                    self._turn(sums, x, w, i64(turns), rest)
                move(values)
        return with_bias(
            [[load(memory, i64(i * 4 * len(quads) + quad), 4) for quad in quads] for i in pixels]
        )

    def _clear(self, step: Half, sums: Sums, values: int) -> None:
        self._zero(sums, step.start(values))

    def _zero(self, sums: Sums, value: int) -> None:
        dtype = self.plan.step.sum_dtype
        for register in (register for row in sums for vector in row for register in vector):
            register.set(splat(dtype, value, register.lanes))
