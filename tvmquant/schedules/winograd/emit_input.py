"""From the input to transformed activations, one tile at a time.

A tile that lies inside the image is read in place; one that reaches beyond it is first gathered
into a patch, with the zero point where there is no input.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.tir import Expr, broadcast, cast, i64, load, splat, store
from tvmquant.schedules.winograd.plan import Plan
from tvmquant.schedules.winograd.values import Value

_COPY_LANES = 64


def vector_length(channels: int, longest: int) -> int:
    """Largest power of two up to ``longest`` that the channels fill."""
    return min(longest, 1 << (channels.bit_length() - 1))


def emit_vectors(channels: int, longest: int) -> tuple[Expr, Expr, int]:
    """Begin a loop over vectors that cover ``channels``.

    Returns
    -------
    loop : context manager
        Yields the index.
    start : callable
        Index → first channel; the last vector moves back so that it ends with the channels.
    lanes : int
    """
    lanes = vector_length(channels, longest)
    count = -(-channels // lanes)
    if channels % lanes:
        return T.serial(i64(count)), lambda i: T.min(i * lanes, i64(channels - lanes)), lanes
    return T.serial(i64(count)), lambda i: i * lanes, lanes


@dataclass
class InputTransform:
    """Emitter of the transform.

    Attributes
    ----------
    plan : Plan
    x : Buffer
        Flat input.
    patch : Buffer
        uint8 ``[row points * column points * channels]``, flat.
    out : Buffer
        Transformed activations of a block: ``[position][tile][channel]``, flat.
    zero_point : Expr
        uint8 scalar.
    """

    plan: Plan
    x: Expr
    patch: Expr
    out: Expr
    zero_point: Expr

    def emit(self, tile: Expr, index: Expr) -> None:
        """Transform tile ``tile`` of all images to row ``index`` of the block."""
        plan = self.plan
        n, height, width, channels = plan.workload.x_shape
        top, left = plan.workload.padding[:2]
        rows, columns = plan.algorithm.rows, plan.algorithm.columns
        grid = plan.grid
        image = T.bind(tile // (grid[0] * grid[1])) if n > 1 else i64(0)
        place = T.bind(tile % (grid[0] * grid[1])) if n > 1 else tile
        row = T.bind((place // grid[1]) * rows.size - top)
        column = T.bind((place % grid[1]) * columns.size - left)
        base = T.bind(((image * height + row) * width + column) * channels)
        target = T.bind(index * plan.depth)
        inside = tirx.all(
            row >= 0,
            row + rows.points <= height,
            column >= 0,
            column + columns.points <= width,
        )
        with T.If(inside):
            with T.Then():
                self._transform(self.x, base, width * channels, target)
            with T.Else():
                self._gather(base, row, column)
                self._transform(self.patch, i64(0), columns.points * channels, target)

    def _gather(self, base: Expr, row: Expr, column: Expr) -> None:
        _, height, width, channels = self.plan.workload.x_shape
        rows, columns = (
            axis.points for axis in (self.plan.algorithm.rows, self.plan.algorithm.columns)
        )
        with T.serial(i64(rows)) as i, T.serial(i64(columns)) as j:
            exists = tirx.all(row + i >= 0, row + i < height, column + j >= 0, column + j < width)
            target = T.bind((i * columns + j) * channels)
            source = T.bind(base + (i * width + j) * channels)
            with T.If(exists):
                with T.Then():
                    loop, start, lanes = emit_vectors(channels, _COPY_LANES)
                    with loop as k:
                        at = T.bind(start(k))
                        store(self.patch, load(self.x, source + at, lanes), target + at, lanes)
                with T.Else():
                    loop, start, lanes = emit_vectors(channels, _COPY_LANES)
                    with loop as k:
                        value = broadcast(self.zero_point, lanes)
                        store(self.patch, value, target + start(k), lanes)

    def _transform(self, source: Expr, base: Expr, row_stride: int, target: Expr) -> None:
        plan = self.plan
        rows, columns, operands = plan.algorithm.rows, plan.algorithm.columns, plan.operands
        loop, start, lanes = emit_vectors(plan.channels, operands.width)
        with loop as k:
            channel = T.bind(start(k))
            at = T.bind(base + channel)
            transformed = []
            for j in range(columns.points):
                pixels = [
                    self._read(source, at + (i * row_stride + j * plan.channels), lanes)
                    for i in range(rows.points)
                ]
                transformed.append(rows.input_transform(pixels))
            out = T.bind(target + channel)
            for i in range(rows.points):
                values = columns.input_transform([column[i] for column in transformed])
                for j, value in enumerate(values):
                    if plan.has_offsets:
                        offset = int(plan.ranges.offsets[i, j])
                        value = Value("uint8", lanes, value.expr + splat("uint8", offset, lanes))
                    store(
                        self.out, value.expr, out + (i * columns.points + j) * plan.x_stride, lanes
                    )

    def _read(self, source: Expr, at: Expr, lanes: int) -> Value:
        dtype = self.plan.operands.x_dtype
        value = load(source, at, lanes)
        return Value(dtype, lanes, cast(dtype, lanes, value) if dtype == "int16" else value)
