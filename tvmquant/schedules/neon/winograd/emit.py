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

from tvmquant.schedules.functions import (
    argument,
    flat,
    last_arguments,
    mark,
    requantize_arguments,
)
from tvmquant.schedules.linear.tir import Expr, i64
from tvmquant.schedules.neon.epilogue import Epilogue, make_epilogue
from tvmquant.schedules.neon.winograd.output import OutputTransform
from tvmquant.schedules.neon.winograd.plan import Plan
from tvmquant.schedules.neon.winograd.products import Products
from tvmquant.schedules.winograd.nest import Nest


def emit_prim_func(plan: Plan, name: str) -> Any:
    """Build ``(x, weights, centre, bias, *params, qinfo, [other], out)``."""
    workload = plan.workload
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            x = argument("x", workload.x_shape, "uint8")
            w = argument("weights", plan.expanded_shape, plan.operands.dtype)
            size = plan.padded_outputs * (plan.chunks if plan.operands.half else 1)
            centre = argument("centre", (size,), plan.operands.sum_dtype)
            bias = argument("bias", (plan.padded_outputs,), "int32")
            params = requantize_arguments(workload, (plan.padded_outputs,))
            qinfo, other, out = last_arguments(workload)
            mark(name)
            zero_point = T.bind(tirx.Cast("uint8", qinfo[i64(0)]))
            epilogue = make_epilogue(workload, out, params, qinfo, other)
            _Nest(plan, flat(x), zero_point, flat(w), centre, bias, epilogue).emit()
    return builder.get()


@dataclass
class _Nest(Nest):
    w: Expr
    centre: Expr
    bias: Expr
    epilogue: Epilogue

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
