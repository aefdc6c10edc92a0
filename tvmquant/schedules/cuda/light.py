"""Default schedules of light operators on a GPU: TVM's own rules, which suffice for them."""

from __future__ import annotations

import tvm
from tvm import tirx
from tvm.s_tir import dlight


def schedule_light(func: tirx.PrimFunc, target: tvm.target.Target) -> tirx.PrimFunc:
    """Bind the loops of a function in TE form to blocks and threads."""
    rules = (
        dlight.gpu.Reduction(),
        dlight.gpu.GeneralReduction(),
        dlight.gpu.Transpose(),
        dlight.gpu.Fallback(),
    )
    with target:
        mod = dlight.ApplyDefaultSchedule(*rules)(tvm.IRModule({"main": func}))
    return mod["main"]
