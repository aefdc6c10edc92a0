"""From the products' sums to the output: inverse transform, exact division, epilogue."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.tir import Expr, cast, i64, load, splat, store
from tvmquant.schedules.neon.epilogue import Epilogue
from tvmquant.schedules.neon.vectors import neon, part, wrapping
from tvmquant.schedules.neon.winograd.plan import Plan
from tvmquant.schedules.winograd.values import Value


@dataclass
class OutputTransform:
    """Emitter of the outputs of one tile and one block of output channels.

    Attributes
    ----------
    plan : Plan
    sums : Buffer
        ``[position][tile][lane]``, flat.
    partial : Buffer or None
        int32 ``[tile][pixel][lane]``, flat: sum over the chunks so far, where there are several.
    results : Buffer
        ``[pixel][lane]`` of one tile, flat: rounded int16, or the output's 32-bit type.
    centre, bias : Buffer
        See :meth:`Plan.biases`.
    epilogue : Epilogue
    """

    plan: Plan
    sums: Expr
    partial: Expr | None
    results: Expr
    centre: Expr
    bias: Expr
    epilogue: Epilogue

    def add(self, index: Expr, channel_block: Expr, chunk: Expr) -> None:
        """Add a chunk's part of row ``index`` of the block to ``partial``."""
        plan = self.plan
        base = T.bind(index * (plan.algorithm.size**2 * plan.lanes))
        with T.serial(i64(plan.lanes // 8)) as v:
            lane = T.bind(v * 8)
            channel = T.bind(channel_block * plan.lanes + lane)
            pixels = self._inverse(index, channel, lane, chunk)
            for i, value in enumerate(pixels):
                for first in (0, 4):
                    at = base + lane + (i * plan.lanes + first)
                    # The first chunk finds zeros.
                    wide = cast("int32", 4, part(value, first, 4))
                    total = wrapping("add", 32, 4, load(self.partial, at, 4), wide)
                    store(self.partial, total, at, 4)

    def clear(self, count: Expr) -> None:
        """Set ``count`` tiles of ``partial`` to zero."""
        size = self.plan.algorithm.size**2 * self.plan.lanes
        with T.serial(count * (size // 8)) as i:
            store(self.partial, splat("int32", 0, 8), i * 8, 8)

    def finish(self, tile: Expr, index: Expr, channel_block: Expr) -> None:
        """Compute tile ``tile`` of all images from row ``index`` of the block."""
        plan = self.plan
        first = T.bind(channel_block * plan.lanes)
        if self.partial is not None:
            base = T.bind(index * (plan.algorithm.size**2 * plan.lanes))
            with T.serial(i64(plan.lanes // 4)) as quad:
                lane = T.bind(quad * 4)
                values = [
                    load(self.partial, base + lane + i * plan.lanes, 4)
                    for i in range(plan.algorithm.size**2)
                ]
                self._scale(values, T.bind(first + lane), lane)
        elif plan.operands.half:
            with T.serial(i64(plan.lanes // 8)) as v:
                lane = T.bind(v * 8)
                channel = T.bind(first + lane)
                pixels = self._inverse(index, channel, lane, i64(0))
                for start in (0, 4):
                    values = [cast("int32", 4, part(value, start, 4)) for value in pixels]
                    self._scale(values, channel + start, lane + start)
        else:
            with T.serial(i64(plan.lanes // 4)) as quad:
                lane = T.bind(quad * 4)
                channel = T.bind(first + lane)
                self._scale(self._inverse(index, channel, lane, i64(0)), channel, lane)
        self._store_tile(tile, first, channel_block)

    def _inverse(self, index: Expr, channel: Expr, lane: Expr, chunk: Expr) -> list[Expr]:
        """Outputs of one vector of channels, still centred."""
        plan, algorithm = self.plan, self.plan.algorithm
        points, dtype = algorithm.rows.points, plan.operands.sum_dtype
        lanes = 8 if plan.operands.half else 4
        at = T.bind(index * plan.lanes + lane)
        columns = []
        for j in range(points):
            sums = []
            for i in range(points):
                offset = at + (i * points + j) * plan.sum_stride
                sums.append(Value(dtype, lanes, load(self.sums, offset, lanes)))
            if j == 1:
                # From here it comes out in every output of the tile.
                place = channel + chunk * plan.padded_outputs
                sums[1] = sums[1] + Value(dtype, lanes, load(self.centre, place, lanes))
            columns.append(algorithm.rows.output_transform(sums))
        inverse = pow(algorithm.odd, -1, 1 << (16 if plan.operands.half else 32))
        top = 1 << (15 if plan.operands.half else 31)
        found = []
        for i in range(algorithm.size):
            for value in algorithm.columns.output_transform([column[i] for column in columns]):
                if algorithm.odd > 1:
                    value = value.times(inverse - 2 * (inverse & top))
                found.append((value >> algorithm.shift).expr)
        return found

    def _scale(self, values: list[Expr], channel: Expr, lane: Expr) -> None:
        """Add the bias, scale and round int32x4 vectors of all pixels of a tile."""
        bias = T.bind(load(self.bias, channel, 4))
        for i, value in enumerate(values):
            scaled = self.epilogue.scale(wrapping("add", 32, 4, bias, value), channel)
            if str(self.results.dtype) == "int16":
                scaled = neon("int16", 4, "sqxtn.v4i16", scaled)
            store(self.results, scaled, lane + i * self.plan.lanes, 4)

    def _store_tile(self, tile: Expr, channel: Expr, channel_block: Expr) -> None:
        plan = self.plan
        n, oh, ow, outputs = plan.workload.out_shape
        size, grid = plan.algorithm.size, plan.grid
        image = T.bind(tile // (grid[0] * grid[1])) if n > 1 else i64(0)
        place = T.bind(tile % (grid[0] * grid[1])) if n > 1 else tile
        row, column = T.bind((place // grid[1]) * size), T.bind((place % grid[1]) * size)
        first = T.bind(((image * oh + row) * ow + column) * outputs + channel)
        rows, columns = _count(oh, size, row), _count(ow, size, column)

        def pixels(valid: int) -> None:
            with T.serial(rows) as i, T.serial(columns) as j:
                source = T.bind((i * size + j) * plan.lanes)
                self._store(source, T.bind(first + (i * ow + j) * outputs), valid)

        last = plan.outputs - (plan.channel_blocks - 1) * plan.lanes
        if last == plan.lanes or plan.channel_blocks == 1:
            pixels(last)
            return
        with T.If(channel_block < plan.channel_blocks - 1):
            with T.Then():
                pixels(plan.lanes)
            with T.Else():
                pixels(last)

    def _store(self, source: Expr, at: Expr, valid: int) -> None:
        def take(quad: int, count: int) -> Expr:
            return T.bind(load(self.results, source + 4 * quad, 4 * count))

        self.epilogue.emit_rounded(take, at, valid)


def _count(extent: int, size: int, start: Expr) -> Expr:
    """Rows or columns of a tile that exist."""
    if extent % size == 0:
        return i64(size)
    return T.bind(T.min(i64(size), extent - start))
