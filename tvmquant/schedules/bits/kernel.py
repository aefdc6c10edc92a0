"""The kernels in which fewer bits are faster."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from tvm import tirx

from tvmquant.schedules.bits.popcount import PopcountNest, PopcountPlan
from tvmquant.schedules.linear.emit import Nest, emit_prim_func
from tvmquant.schedules.linear.packing import pack_outputs
from tvmquant.schedules.workload import Workload


@dataclass(frozen=True)
class BitsKernel:
    workload: Workload
    plan: PopcountPlan
    nest: type[Nest] = PopcountNest

    @property
    def name(self) -> str:
        w = self.workload
        parts = [w.op, "x".join(map(str, w.x_shape)), "x".join(map(str, w.w_shape))]
        if w.op != "matmul":
            numbers = (*w.strides, *w.padding, *w.dilation)
            parts.append("_".join(map(str, numbers)))
        parts += [f"w{w.w_bits}a{w.x_bits}", w.requantize, self.plan.isa.name]
        return "_".join(parts)

    @property
    def label(self) -> str:
        t = self.plan.tiling
        return f"{self.plan.isa.name} {t.rows}x{t.columns}x{len(t.vectors)}"

    def pack(self, weight, bias, params):
        plan = self.plan
        arrays = [plan.pack(weight)]
        for values in (plan.correct(bias), *params):
            outputs = plan.input.geometry.out_channels
            arrays.append(pack_outputs(values, outputs, 1, plan.tiling.group_lanes))
        if plan.has_table:
            arrays.append(plan.offsets)
        return arrays

    @cached_property
    def _prim_func(self) -> tirx.PrimFunc:
        return emit_prim_func(self.plan, self.name, self.nest)

    def prim_func(self) -> tirx.PrimFunc:
        return self._prim_func
