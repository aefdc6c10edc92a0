"""From the lowered module to an executable: TVM's build pipeline without what is done already."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.build_cuda import nvcc
from tvmquant.graph import name_of
from tvmquant.targets import Device


def _planning() -> list[Any]:
    """Passes up to the memory plan."""
    transform = relax.transform
    return [
        transform.ToNonDataflow(),
        transform.RemovePurityChecking(),
        transform.CallTIRRewrite(),
        transform.StaticPlanBlockMemory(),
    ]


def workspace_bytes(mod: tvm.IRModule) -> int:
    """Bytes that a run of ``main`` reserves for activations and outputs.

    Parameters
    ----------
    mod : tvm.IRModule
        Output of ``tvmquant.passes.lower``.
    """
    planned = tvm.transform.Sequential(_planning())(mod)["main"]
    total = 0

    def visit(value: Any) -> None:
        nonlocal total
        if isinstance(value, relax.Call):
            kind = name_of(value)
            if kind == "memory.alloc_storage":
                total += int(value.args[0].values[0])
            elif kind == "builtin.alloc_tensor":
                shape = [int(d) for d in value.args[0].values]
                total += int(np.prod(shape)) * np.dtype(str(value.ty.dtype)).itemsize

    relax.analysis.post_order_visit(planned, visit)
    return total


def build(mod: tvm.IRModule, device: Device, *, system_library: bool = False) -> Any:
    """Build a lowered module.

    TVM's default pipeline would legalize again, and so turn a reshape of an output, which is a
    view, into a kernel without a schedule.

    Parameters
    ----------
    mod : tvm.IRModule
        Output of ``tvmquant.passes.lower``.
    device : Device
    system_library : bool
        Whether the module will be linked into a program; by default it will be a shared library.

    Returns
    -------
    tvm.relax.VMExecutable
    """
    transform = relax.transform
    pipeline = tvm.transform.Sequential(
        [
            *_planning(),
            transform.LowerAllocTensor(),
            transform.KillAfterLastUse(),
            transform.LowerRuntimeBuiltin(),
            transform.ComputePrimValue(),
            transform.VMShapeLower(),
            transform.AttachGlobalSymbol(),
        ]
    )
    if system_library:
        # Without a prefix: TVM 0.27 fails to rename functions that have buffer views.
        mod = mod.with_attr("system_lib_prefix", "")
    return compile_module(mod, device, relax_pipeline=pipeline)


def compile_module(mod: Any, device: Device, **options: Any) -> Any:
    """``tvm.compile`` for a device: machine code, or an error.

    Parameters
    ----------
    mod : tvm.IRModule or dict of str to PrimFunc
    device : Device
    options
        Passed on.
    """
    archs = device.compiled_archs
    with nvcc(archs) if archs else nullcontext(), device.target:
        return tvm.compile(mod, target=device.target, **options)
