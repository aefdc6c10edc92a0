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

from tvmquant.schedules.functions import (
    argument,
    flat,
    last_arguments,
    mark,
    requantize_arguments,
)
from tvmquant.schedules.linear.epilogue import Epilogue, make_epilogue
from tvmquant.schedules.linear.tir import Expr, i64
from tvmquant.schedules.winograd.emit_output import OutputTransform
from tvmquant.schedules.winograd.emit_products import Products
from tvmquant.schedules.winograd.nest import Nest
from tvmquant.schedules.winograd.plan import Plan


def emit_prim_func(plan: Plan, name: str) -> Any:
    """Build ``(x, weights, [offsets], centre, bias, *params, qinfo, [other], out)``."""
    workload = plan.workload
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            x = argument("x", workload.x_shape, "uint8")
            w = argument("weights", plan.expanded_shape, plan.operands.dtype)
            shape = (plan.channel_blocks, plan.algorithm.positions, plan.lanes)
            offsets = argument("offsets", shape, "int32") if plan.has_offsets else None
            centre = argument("centre", (plan.padded_outputs,), "int32")
            bias = argument("bias", (plan.padded_outputs,), "int32")
            params = requantize_arguments(workload, (plan.padded_outputs,))
            qinfo, other, out = last_arguments(workload)
            mark(name)
            other = None if other is None else flat(other)
            epilogue = make_epilogue(workload, True, flat(out), params, qinfo, other)
            zero_point = T.bind(tirx.Cast("uint8", qinfo[i64(0)]))
            flat_offsets = None if offsets is None else flat(offsets)
            parts = (flat(w), flat_offsets, centre, bias, epilogue)
            _Nest(plan, flat(x), zero_point, *parts).emit()
    return builder.get()


@dataclass
class _Nest(Nest):
    w: Expr
    offsets: Expr | None
    centre: Expr
    bias: Expr
    epilogue: Epilogue

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
