"""The PrimFunc of a Winograd convolution.

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

from tvmquant.schedules.linear.epilogue import PARAM_DTYPES, Epilogue, make_epilogue
from tvmquant.schedules.linear.tir import Expr, i64
from tvmquant.schedules.winograd.emit_input import InputTransform
from tvmquant.schedules.winograd.emit_output import OutputTransform
from tvmquant.schedules.winograd.emit_products import Products
from tvmquant.schedules.winograd.functions import argument, flat, mark
from tvmquant.schedules.winograd.plan import PIECES, Plan


def emit_prim_func(plan: Plan, name: str) -> Any:
    """Build ``(x, weights, [offsets], centre, bias, *params, qinfo, [other], out)``."""
    workload = plan.workload
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            x = argument("x", workload.x_shape, "uint8")
            w = argument("weights", plan.expanded_shape, plan.operands.dtype)
            shape = (plan.channel_blocks, plan.algorithm.positions, plan.lanes)
            offsets = argument("offsets", shape, "int32") if plan.has_offsets else None
            centre = argument("centre", (plan.padded_outputs,), "int32")
            bias = argument("bias", (plan.padded_outputs,), "int32")
            params = [
                argument(f"param{i}", (plan.padded_outputs,), dtype)
                for i, dtype in enumerate(PARAM_DTYPES[workload.requantize])
            ]
            qinfo = argument("qinfo", (workload.numbers,), "int32")
            other = None
            if workload.residual:
                other = argument("other", workload.out_shape, "uint8")
            out = argument("out", workload.out_shape, workload.out_dtype)
            mark(name)
            other = None if other is None else flat(other)
            epilogue = make_epilogue(workload, True, flat(out), params, qinfo, other)
            zero_point = T.bind(tirx.Cast("uint8", qinfo[i64(0)]))
            flat_offsets = None if offsets is None else flat(offsets)
            _Nest(plan, flat(x), flat(w), flat_offsets, centre, bias, epilogue, zero_point).emit()
    return builder.get()


@dataclass
class _Nest:
    plan: Plan
    x: Expr
    w: Expr
    offsets: Expr | None
    centre: Expr
    bias: Expr
    epilogue: Epilogue
    zero_point: Expr

    def emit(self) -> None:
        plan = self.plan
        shared = plan.parallel
        with _loop(plan.blocks, shared == "tiles") as block:
            first = T.bind(block * plan.block)
            count = i64(plan.block)
            if plan.tiles % plan.block:
                count = T.bind(T.min(count, i64(plan.tiles) - first))
            x_size = plan.algorithm.positions * plan.x_stride
            transformed = T.alloc_buffer((i64(x_size),), plan.operands.x_dtype)
            self._input(first, count, transformed, shared == "channels")
            with _loop(plan.channel_blocks, shared == "channels") as channel_block:
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
        share = -(-plan.block // PIECES)
        with T.parallel(i64(-(-plan.block // share))) as piece:
            start = T.bind(piece * share)
            tiles(start, T.bind(T.max(T.min(i64(share), count - start), i64(0))))

    def _channel_block(
        self, first: Expr, count: Expr, transformed: Expr, channel_block: Expr
    ) -> None:
        plan = self.plan
        sums = T.alloc_buffer((i64(plan.algorithm.positions * plan.sum_stride),), plan.sum_dtype)
        results = T.alloc_buffer((i64(plan.algorithm.outputs * plan.lanes),), "int32")
        products = Products(plan, transformed, self.w, self.offsets, sums)
        products.emit(channel_block, T.bind((count + (plan.rows - 1)) // plan.rows))
        output = OutputTransform(plan, sums, results, self.centre, self.bias, self.epilogue)
        with T.serial(count) as index:
            output.emit(T.bind(first + index), index, channel_block)


def _loop(extent: int, parallel: bool) -> Any:
    return (T.parallel if parallel else T.serial)(i64(extent))
