"""From the products' sums to the output: inverse transform, exact division, epilogue."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.epilogue import Epilogue
from tvmquant.schedules.linear.tir import Expr, i64, load, store
from tvmquant.schedules.winograd.plan import Plan
from tvmquant.schedules.winograd.values import Value


@dataclass
class OutputTransform:
    """Emitter of the outputs of one tile and one block of output channels.

    Attributes
    ----------
    plan : Plan
    sums : Buffer
        int32 ``[position][tile][lane]``, flat.
    results : Buffer
        int32 ``[pixel][lane]`` of one tile, flat.
    centre, bias : Buffer
        int32 ``[padded outputs]``, see ``packing``.
    epilogue : Epilogue
    """

    plan: Plan
    sums: Expr
    results: Expr
    centre: Expr
    bias: Expr
    epilogue: Epilogue

    def emit(self, tile: Expr, index: Expr, channel_block: Expr) -> None:
        """Compute tile ``tile`` of all images from row ``index`` of the block."""
        plan = self.plan
        channel = T.bind(channel_block * plan.lanes)
        with T.serial(i64(plan.vectors)) as v:
            lane = T.bind(v * plan.operands.lanes)
            self._inverse(T.bind(index * plan.lanes + lane), T.bind(channel + lane), lane)
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
                self._store(source, channel, T.bind(first + (i * ow + j) * outputs), valid)

        last = plan.outputs - (plan.channel_blocks - 1) * plan.lanes
        if last == plan.lanes or plan.channel_blocks == 1:
            pixels(last)
            return
        with T.If(channel_block < plan.channel_blocks - 1):
            with T.Then():
                pixels(plan.lanes)
            with T.Else():
                pixels(last)

    def _inverse(self, at: Expr, channel: Expr, lane: Expr) -> None:
        plan, algorithm = self.plan, self.plan.algorithm
        points, lanes = algorithm.points, plan.operands.lanes
        columns = []
        for j in range(points):
            sums = []
            for i in range(points):
                offset = at + (i * points + j) * plan.sum_stride
                sums.append(Value("int32", lanes, load(self.sums, offset, lanes)))
            if j == 1:
                # From here it comes out in every output of the tile.
                sums[1] = sums[1] + Value("int32", lanes, load(self.centre, channel, lanes))
            columns.append(algorithm.output_transform(sums))
        bias = Value("int32", lanes, load(self.bias, channel, lanes))
        for i in range(algorithm.size):
            values = algorithm.output_transform([column[i] for column in columns])
            for j, value in enumerate(values):
                if algorithm.odd > 1:
                    value = value.times(algorithm.inverse - (1 << 32) * (algorithm.inverse >> 31))
                value = (value >> algorithm.shift) + bias
                place = (i * algorithm.size + j) * plan.lanes + lane
                store(self.results, value.expr, place, lanes)

    def _store(self, source: Expr, channel: Expr, at: Expr, valid: int) -> None:
        lanes = self.plan.operands.lanes
        used = -(-valid // lanes)  # the last block may hold vectors of padding only
        values = [T.bind(load(self.results, source + v * lanes, lanes)) for v in range(used)]
        self.epilogue.emit(values, [lanes] * used, channel, at, valid)


def _count(extent: int, size: int, start: Expr) -> Expr:
    """Rows or columns of a tile that exist."""
    if extent % size == 0:
        return i64(size)
    return T.bind(T.min(i64(size), extent - start))
