"""Phase 6: packed layers → PrimFuncs, the rest legalized, fused and scheduled."""

from __future__ import annotations

import json
from typing import Any

import tvm
from tvm import relax

import tvmquant.schedules.compute  # noqa: F401  (registers the legalizations)
from tvmquant.graph import Builder, rewrite
from tvmquant.ops import is_op
from tvmquant.ops.integer import ints
from tvmquant.passes.schedule import ScheduleFunctions
from tvmquant.schedules.registry import find_kernel
from tvmquant.schedules.workload import Workload
from tvmquant.targets import Device

# PrimFunc attribute that marks a kernel made for a packed layer.
KERNEL = "tvmquant.kernel"


def lower(mod: tvm.IRModule, device: Device) -> tvm.IRModule:
    """Lower to scheduled PrimFuncs called by ``main``; the result is ready for the build.

    Parameters
    ----------
    mod : tvm.IRModule
        Output of ``pack``.
    device : Device
    """
    mod = _call_kernels(mod, device)
    transform = relax.transform
    with device.target:
        mod = tvm.transform.Sequential(
            [
                transform.LegalizeOps(enable_warning=False),
                transform.RewriteDataflowReshape(),
                transform.AnnotateTIROpPattern(),
                transform.FuseOps(),
                transform.FuseTIR(),
                transform.DeadCodeElimination(),
            ]
        )(mod)
        return ScheduleFunctions(device)(mod)


def _call_kernels(mod: tvm.IRModule, device: Device) -> tvm.IRModule:
    functions: dict[str, Any] = {}

    def visit(builder: Builder, var: relax.Var, value: Any) -> Any:
        if not is_op(value, "tvmquant.packed"):
            return None
        text = str(value.attrs["workload"])
        if text not in functions:
            workload = workload_from_json(text)
            kernel = find_kernel(workload, device)
            func = kernel.prim_func().without_attr("global_symbol")
            func = func.with_attr(KERNEL, kernel.name)
            functions[text] = builder.bb.add_func(func, kernel.name)
        out = relax.TensorType(ints(value.attrs["out_shape"]), str(value.attrs["out_dtype"]))
        return relax.call_tir(functions[text], list(value.args), out)

    return rewrite(mod, visit)


def workload_from_json(text: str) -> Workload:
    """Inverse of ``json.dumps(asdict(workload))``."""
    data = json.loads(text)
    return Workload(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})
