"""The PrimFunc of a dense integer kernel.

Loop nest, outermost first: images, chunks of pixels and blocks (shared out to the threads),
groups, blocks of output channels, register tiles, reduction steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvmquant.schedules.functions import (
    argument,
    flat,
    last_arguments,
    mark,
    requantize_arguments,
)
from tvmquant.schedules.linear.epilogue import Epilogue, make_epilogue
from tvmquant.schedules.linear.gathered import GatheredInput, emit_gather
from tvmquant.schedules.linear.microkernel import Microkernel
from tvmquant.schedules.linear.plan import Plan
from tvmquant.schedules.linear.strips import Patch, Strip
from tvmquant.schedules.linear.tir import Expr, Register, broadcast, i64, load, store
from tvmquant.schedules.linear.workspace import emit_copy


def emit_prim_func(plan: Plan, name: str, nest: type[Nest] | None = None) -> tirx.PrimFunc:
    """Build ``(x, weights, bias, *params, [offsets], [border_sums], qinfo, [other], out)``.

    ``nest`` may be a subclass of :class:`Nest` with its own workspace or register tiles.
    """
    workload = plan.workload
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            x = argument("x", workload.x_shape, "uint8")
            w = argument("w", (plan.weight_count,), "int8" if workload.w_bits == 8 else "uint8")
            bias = argument("bias", (plan.param_count,), "int32")
            params = requantize_arguments(workload, (plan.param_count,))
            table = argument("offsets", plan.offsets.shape, "int32") if plan.has_table else None
            sums = None
            if plan.border_count > 1:
                sums = argument("border_sums", (plan.border_count * plan.param_count,), "int32")
            qinfo, other, out = last_arguments(workload)
            mark(name)
            flat_out = flat(out)
            other = None if other is None else flat(other)
            x_zero_point = T.bind(qinfo[i64(0)])
            epilogue = make_epilogue(workload, plan.isa.x86, flat_out, params, qinfo, other)
            flat_x = flat(x)
            if sums is not None:
                bias = _biases(plan, bias, sums, x_zero_point)
            (nest or Nest)(plan, flat_x, w, bias, table, epilogue).emit(x_zero_point)
    return builder.get()


def _biases(plan: Plan, bias: Expr, sums: Expr, x_zero_point: Expr) -> Expr:
    """Bias of every kind of pixel: what it leaves out is its zero point times the weights."""
    count, lanes = plan.param_count, plan.isa.lanes[-1]
    biases = T.alloc_buffer((i64(plan.border_count * count),), "int32")
    with T.serial(i64(plan.border_count)) as border, T.serial(i64(count // lanes)) as index:
        channel = T.bind(index * lanes)
        at = T.bind(border * count + channel)
        left_out = load(sums, at, lanes) * broadcast(x_zero_point, lanes)
        store(biases, load(bias, channel, lanes) + left_out, at, lanes)
    return biases


@dataclass(frozen=True)
class _Place:
    """Where a group begins: in the input, in the output, among the padded channels."""

    reads: Expr
    x_base: Expr
    out_base: Expr
    lane_base: Expr


@dataclass
class Nest:
    """Emitter of the loops around the register tiles."""

    plan: Plan
    x: Expr
    w: Expr
    bias: Expr
    table: Expr | None
    epilogue: Epilogue

    def prepare(self) -> None:
        """Emit what is done once, before the loop over the images."""

    def fill(self, work: Expr, x_base: Expr, x_zero_point: Expr) -> None:
        """Emit the copy of an image that begins at ``x_base`` into the workspace."""
        plan = self.plan
        emit_copy(plan.input, self.x, x_base, work, x_zero_point, plan.tiling.parallel)
        if isinstance(plan.input, GatheredInput):
            emit_gather(plan.input, work, plan.tiling.parallel)

    def tile(self, reads: Expr, vectors: tuple[int, ...], valid: int, patch: Patch) -> Microkernel:
        """The register tile that computes ``valid`` channels in ``vectors``."""
        return Microkernel(
            self.plan, reads, self.w, self.bias, self.table, self.epilogue, vectors, valid, patch
        )

    def emit(self, x_zero_point: Expr) -> None:
        """Emit the loops."""
        self.prepare()
        source, tiling = self.plan.input, self.plan.tiling
        g = source.geometry
        work = None
        if source.copied:
            work = T.alloc_buffer((i64(source.workspace),), source.dtype)
        image_size = math.prod(self.plan.workload.x_shape) // g.images
        with T.serial(i64(g.images)) as image:
            if work is not None:
                self.fill(work, T.bind(image * image_size), x_zero_point)
            x_base = image * image_size - source.origin if work is None else i64(0)
            reads = self.x if work is None else work
            out_base = image * (g.out[0] * g.out[1] * g.out_channels)
            loop = T.parallel if tiling.parallel else T.serial
            with loop(i64(tiling.chunks * tiling.block_chunks)) as chunk:
                self._chunk(chunk, reads, T.bind(x_base), T.bind(out_base))

    def _chunk(self, chunk: Expr, reads: Expr, x_base: Expr, out_base: Expr) -> None:
        plan, tiling = self.plan, self.plan.tiling
        g = plan.input.geometry
        pixels, part = chunk, i64(0)
        if tiling.block_chunks > 1:
            pixels = T.bind(chunk // tiling.block_chunks)
            part = T.bind(chunk % tiling.block_chunks)
        first_tile = T.bind(pixels * tiling.chunk_tiles)
        tiles = T.bind(T.min(i64(tiling.chunk_tiles), i64(tiling.tiles(g)) - first_tile))
        first_block = part * tiling.block_share
        blocks = T.min(i64(tiling.block_share), i64(tiling.full_blocks) - first_block)
        with T.serial(i64(g.groups)) as group:
            place = _Place(
                reads,
                T.bind(x_base + group * (plan.input.channels // g.groups)),
                T.bind(out_base + group * g.group_outputs),
                T.bind(group * tiling.group_lanes),
            )
            lanes = sum(tiling.vectors)
            with T.serial(blocks) as block:
                channel = T.bind((first_block + block) * lanes)
                valid = lanes if tiling.tail else min(lanes, g.group_outputs)
                self._block(place, channel, tiling.vectors, valid, first_tile, tiles)
            if not tiling.tail:
                return
            channel = tiling.full_blocks * lanes
            rest = (i64(channel), tiling.tail, g.group_outputs - channel, first_tile, tiles)
            if tiling.block_chunks == 1:
                self._block(place, *rest)
                return
            with T.If(part == tiling.block_chunks - 1), T.Then():
                self._block(place, *rest)

    def _block(
        self,
        place: _Place,
        channel: Expr,
        vectors: tuple[int, ...],
        valid: int,
        first_tile: Expr,
        tiles: Expr,
    ) -> None:
        plan, tiling = self.plan, self.plan.tiling
        g = plan.input.geometry
        per_row = -(-g.out[1] // tiling.columns)
        with T.serial(tiles) as index:
            tile = T.bind(first_tile + index)
            tile_row, tile_column = i64(0), tile
            if g.out[0] > 1:
                tile_row, tile_column = T.bind(tile // per_row), T.bind(tile % per_row)
            row = T.bind(tile_row * tiling.rows)
            column = T.bind(tile_column * tiling.columns)
            x_at = T.bind(place.x_base + _pixel(plan, row, column))
            out_at = T.bind(place.out_base + (row * g.out[1] + column) * g.out_channels + channel)
            lane = T.bind(place.lane_base + channel)
            rows, columns = plan.input.strips(tiling.rows, tiling.columns)

            # TVM's analysis of what buffers hold takes seconds if it understands the conditions.
            place_row, place_column = Register("int64", 1), Register("int64", 1)
            place_row.set(tile_row)
            place_column.set(tile_column)

            def emit_tile(some: Strip, others: Strip) -> None:
                code = self.tile(place.reads, vectors, valid, Patch(some, others))
                code.row, code.turn = place_row.get(), index
                code.emit(x_at, out_at, lane)

            _cases(
                place_row,
                rows,
                lambda some: _cases(place_column, columns, lambda others: emit_tile(some, others)),
            )


def _cases(index: Register, strips: list[Strip], emit: Callable[[Strip], None]) -> None:
    """Emit the code of the strip that tile ``index`` belongs to."""
    strip, *rest = strips
    if not rest:
        emit(strip)
        return
    with T.If(index.get() < strip.first + strip.count):
        with T.Then():
            emit(strip)
        with T.Else():
            _cases(index, rest, emit)


def _pixel(plan: Plan, row: Expr, column: Expr) -> Expr:
    rows, columns = plan.input.pixel(1, 0), plan.input.pixel(0, 1)
    return row * rows + column * columns
