"""The PrimFunc of a NEON Winograd convolution.

For every block of tiles: transform the input, then for every block of output channels multiply,
position by position, and transform back. Threads share the blocks of tiles where there are many,
else the blocks of output channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.tir import Expr, i64
from tvmquant.schedules.neon.emit import argument, flat, loop, mark
from tvmquant.schedules.neon.epilogue import PARAM_DTYPES, Epilogue
from tvmquant.schedules.neon.winograd.output import OutputTransform
from tvmquant.schedules.neon.winograd.plan import Plan
from tvmquant.schedules.neon.winograd.products import Products
from tvmquant.schedules.winograd.emit_input import InputTransform

_PIECES = 16


def emit_prim_func(plan: Plan, name: str) -> Any:
    """Build ``(x, weights, centre, bias, *params, qinfo, out)``."""
    workload = plan.workload
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            x = argument("x", workload.x_shape, "uint8")
            w = argument("weights", plan.expanded_shape, plan.operands.dtype)
            size = plan.padded_outputs * (plan.chunks if plan.operands.half else 1)
            centre = argument("centre", (size,), plan.operands.sum_dtype)
            bias = argument("bias", (plan.padded_outputs,), "int32")
            params = [
                argument(f"param{i}", (plan.padded_outputs,), dtype)
                for i, dtype in enumerate(PARAM_DTYPES[workload.requantize])
            ]
            qinfo = argument("qinfo", (4,), "int32")
            out = argument("out", workload.out_shape, workload.out_dtype)
            mark(name)
            numbers = [T.bind(qinfo[i64(i)]) for i in range(4)]
            epilogue = Epilogue(workload.requantize, flat(out), params, *numbers[1:])
            zero_point = T.bind(tirx.Cast("uint8", numbers[0]))
            _Nest(plan, flat(x), flat(w), centre, bias, epilogue, zero_point).emit()
    return builder.get()


@dataclass
class _Nest:
    plan: Plan
    x: Expr
    w: Expr
    centre: Expr
    bias: Expr
    epilogue: Epilogue
    zero_point: Expr

    def emit(self) -> None:
        plan = self.plan
        shared = plan.parallel
        with loop(plan.blocks, shared == "tiles") as block:
            first = T.bind(block * plan.block)
            count = i64(plan.block)
            if plan.tiles % plan.block:
                count = T.bind(T.min(count, i64(plan.tiles) - first))
            x_size = plan.algorithm.positions * plan.x_stride
            transformed = T.alloc_buffer((i64(x_size),), plan.operands.x_dtype)
            self._input(first, count, transformed, shared == "channels")
            with loop(plan.channel_blocks, shared == "channels") as channel_block:
                self._channel_block(first, count, transformed, channel_block)

    def _input(self, first: Expr, count: Expr, out: Expr, parallel: bool) -> None:
        plan = self.plan
        patch_size = plan.algorithm.positions * plan.channels

        def tiles(start: Expr, extent: Expr) -> None:
            patch = T.alloc_buffer((i64(patch_size),), "uint8")
            transform = InputTransform(plan, self.x, patch, out, self.zero_point)
            with T.serial(extent) as i:
                index = T.bind(start + i)
                transform.emit(T.bind(first + index), index)

        if not parallel:
            tiles(i64(0), count)
            return
        share = -(-plan.block // _PIECES)
        with T.parallel(i64(-(-plan.block // share))) as piece:
            start = T.bind(piece * share)
            tiles(start, T.bind(T.max(T.min(i64(share), count - start), i64(0))))

    def _channel_block(
        self, first: Expr, count: Expr, transformed: Expr, channel_block: Expr
    ) -> None:
        plan = self.plan
        positions, pixels = plan.algorithm.positions, plan.algorithm.size**2
        sums = T.alloc_buffer((i64(positions * plan.sum_stride),), plan.operands.sum_dtype)
        narrow = plan.workload.out_dtype == "uint8"
        dtype = "int16" if narrow else plan.workload.out_dtype
        results = T.alloc_buffer((i64(pixels * plan.lanes),), dtype)
        partial = None
        if plan.chunks > 1:
            partial = T.alloc_buffer((i64(plan.block * pixels * plan.lanes),), "int32")
        products = Products(plan, transformed, self.w, sums)
        parts = (sums, partial, results, self.centre, self.bias, self.epilogue)
        output = OutputTransform(plan, *parts)
        groups = T.bind((count + (plan.rows - 1)) // plan.rows)
        if plan.blocks == 1:
            groups = i64(plan.tiles // plan.rows)
        if partial is None:
            products.emit(channel_block, groups, i64(0), i64(plan.turns))
        else:
            output.clear(count)
            with T.serial(i64(plan.chunks)) as chunk:
                turn = T.bind(chunk * plan.chunk)
                turns = T.bind(T.min(i64(plan.chunk), i64(plan.turns) - turn))
                products.emit(channel_block, groups, turn, turns)
                with T.serial(count) as index:
                    output.add(index, channel_block, chunk)
        with T.serial(count) as index:
            output.finish(T.bind(first + index), index, channel_block)
