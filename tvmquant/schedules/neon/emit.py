"""The PrimFunc of a direct NEON kernel.

Loop nest, outermost first: images, chunks of pixels and blocks (shared out to the threads),
groups, blocks of output channels, register tiles, runs, turns.
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
    loop,
    mark,
    requantize_arguments,
)
from tvmquant.schedules.linear.tir import Expr, i64
from tvmquant.schedules.neon.epilogue import Epilogue, make_epilogue
from tvmquant.schedules.neon.plan import Plan
from tvmquant.schedules.neon.source import emit_copy
from tvmquant.schedules.neon.tile import Tile


def emit_prim_func(plan: Plan, name: str) -> tirx.PrimFunc:
    """Build ``(x, weights, bias, *params, qinfo, [other], out)``."""
    workload = plan.workload
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            x = argument("x", workload.x_shape, "uint8")
            w = argument("w", (plan.weight_count,), plan.step.w_dtype)
            bias = argument("bias", (plan.padded_outputs,), "int32")
            params = requantize_arguments(workload, (plan.padded_outputs,))
            qinfo, other, out = last_arguments(workload)
            mark(name)
            zero_point = T.bind(qinfo[i64(0)])
            epilogue = make_epilogue(workload, out, params, qinfo, other)
            _Nest(plan, flat(x), w, bias, epilogue, zero_point).emit()
    return builder.get()


@dataclass
class _Nest:
    plan: Plan
    x: Expr
    w: Expr
    bias: Expr
    epilogue: Epilogue
    x_zero_point: Expr

    def emit(self) -> None:
        source, tiling = self.plan.source, self.plan.tiling
        g = source.geometry
        work = T.alloc_buffer((i64(source.elements),), source.dtype)
        image_size = math.prod(self.plan.workload.x_shape) // g.images
        with T.serial(i64(g.images)) as image:
            start = T.bind(image * image_size)
            emit_copy(source, self.x, start, work, self.x_zero_point, tiling.parallel)
            out = T.bind(image * (g.out[0] * g.out[1] * g.out_channels))
            with loop(tiling.chunks * tiling.block_chunks, tiling.parallel) as chunk:
                self._chunk(work, chunk, out)

    def _chunk(self, work: Expr, chunk: Expr, out: Expr) -> None:
        plan, tiling = self.plan, self.plan.tiling
        g, sizes = plan.source.geometry, tiling.sizes
        pixels, share = chunk, i64(0)
        if tiling.block_chunks > 1:
            pixels = T.bind(chunk // tiling.block_chunks)
            share = T.bind(chunk % tiling.block_chunks)
        first_tile = T.bind(pixels * sizes.chunk_tiles)
        tiles = T.bind(T.min(i64(sizes.chunk_tiles), i64(tiling.tiles) - first_tile))
        first_block = share * tiling.block_share
        blocks = T.min(i64(tiling.block_share), i64(tiling.full_blocks) - first_block)
        with T.serial(i64(g.groups)) as group:

            def block(index: Expr, vectors: int, valid: int) -> None:
                channel = T.bind(index * (sizes.vectors * plan.step.lanes))
                x = T.bind(group * g.group_channels)
                lane = T.bind(group * plan.group_lanes + channel)
                target = T.bind(out + group * g.group_outputs + channel)
                tile = Tile(plan, work, self.w, self.bias, self.epilogue, vectors, valid)
                self._tiles(first_tile, tiles, x, target, lambda *at: tile.emit(*at, lane))

            lanes = sizes.vectors * plan.step.lanes
            with T.serial(T.bind(blocks)) as index:
                valid = lanes if tiling.full_blocks > 1 else min(lanes, g.group_outputs)
                block(first_block + index, sizes.vectors, valid)
            if tiling.tail:
                rest = g.group_outputs - tiling.full_blocks * lanes
                if tiling.block_chunks == 1:
                    block(i64(tiling.full_blocks), tiling.tail, rest)
                    return
                with T.If(share == tiling.block_chunks - 1), T.Then():
                    block(i64(tiling.full_blocks), tiling.tail, rest)

    def _tiles(
        self,
        first: Expr,
        count: Expr,
        x: Expr,
        out: Expr,
        emit: Callable[[Expr, Expr], None],
    ) -> None:
        plan, sizes = self.plan, self.plan.tiling.sizes
        g = plan.source.geometry
        per_row = -(-g.out[1] // sizes.columns)
        with T.serial(count) as index:
            tile = T.bind(first + index)
            row, column = i64(0), tile
            if g.out[0] > 1:
                row, column = T.bind(tile // per_row), T.bind(tile % per_row)
            # The last tile of a row or column moves back inside.
            row = T.bind(T.min(row * sizes.rows, i64(g.out[0] - sizes.rows)))
            column = T.bind(T.min(column * sizes.columns, i64(g.out[1] - sizes.columns)))
            x_at = T.bind(x + plan.source.pixel(row, column))
            emit(x_at, T.bind(out + (row * g.out[1] + column) * g.out_channels))
