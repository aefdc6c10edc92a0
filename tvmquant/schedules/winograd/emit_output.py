"""From the products' sums to the output: inverse transform, exact division, epilogue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.epilogue import Epilogue
from tvmquant.schedules.linear.tir import Expr, cast, i64, load, store
from tvmquant.schedules.winograd.plan import Plan
from tvmquant.schedules.winograd.values import Value, wrapping


@dataclass
class OutputTransform:
    """Emitter of the outputs of one tile and one block of output channels.

    Attributes
    ----------
    plan : Plan
    sums : Buffer
        ``plan.sum_dtype``, ``[position][tile][lane]``, flat.
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
        width = plan.operands.lanes
        if plan.sum_dtype == "int16" and plan.vectors % 2 == 0:
            width *= 2
        with T.serial(i64(plan.lanes // width)) as v:
            lane = T.bind(v * width)
            self._inverse(T.bind(index * plan.lanes + lane), T.bind(channel + lane), lane, width)
        n, oh, ow, outputs = plan.workload.out_shape
        size, grid = (plan.algorithm.rows.size, plan.algorithm.columns.size), plan.grid
        image = T.bind(tile // (grid[0] * grid[1])) if n > 1 else i64(0)
        place = T.bind(tile % (grid[0] * grid[1])) if n > 1 else tile
        row, column = T.bind((place // grid[1]) * size[0]), T.bind((place % grid[1]) * size[1])
        first = T.bind(((image * oh + row) * ow + column) * outputs + channel)
        rows, columns = _count(oh, size[0], row), _count(ow, size[1], column)

        def pixels(valid: int) -> None:
            with T.serial(rows) as i, T.serial(columns) as j:
                source = T.bind((i * size[1] + j) * plan.lanes)
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

    def _inverse(self, at: Expr, channel: Expr, lane: Expr, lanes: int) -> None:
        plan, algorithm = self.plan, self.plan.algorithm
        rows, columns, dtype = algorithm.rows, algorithm.columns, plan.sum_dtype
        transformed = []
        for j in range(columns.points):
            sums = []
            for i in range(rows.points):
                offset = at + (i * columns.points + j) * plan.sum_stride
                sums.append(Value(dtype, lanes, load(self.sums, offset, lanes)))
            if j == 1:
                # From here it comes out in every output of the tile.
                centre = load(self.centre, channel, lanes)
                centre = centre if dtype == "int32" else cast(dtype, lanes, centre)
                sums[1] = sums[1] + Value(dtype, lanes, centre)
            transformed.append(rows.output_transform(sums))
        inverse = algorithm.inverse(8 * np.dtype(dtype).itemsize)
        for i in range(rows.size):
            values = columns.output_transform([column[i] for column in transformed])
            for j, value in enumerate(values):
                if algorithm.odd > 1:
                    value = value.times(inverse)
                place = (i * columns.size + j) * plan.lanes + lane
                self._result(value >> algorithm.shift, channel, place)

    def _result(self, value: Value, channel: Expr, place: Expr) -> None:
        """Store sums with their bias, a vector of int32 at a time."""
        lanes = self.plan.operands.lanes
        for start in range(0, value.lanes, lanes):
            part = value.expr
            if value.lanes > lanes:
                part = tirx.Shuffle([part], list(range(start, start + lanes)))
            if value.dtype != "int32":
                part = cast("int32", lanes, part)
            bias = load(self.bias, channel + start, lanes)
            total = wrapping("add", lanes, part, bias)
            store(self.results, total, place + start, lanes)

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
