"""From the lowered module to an executable: TVM's build pipeline without what is done already."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from tvmquant.targets import Device


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
            transform.ToNonDataflow(),
            transform.RemovePurityChecking(),
            transform.CallTIRRewrite(),
            transform.StaticPlanBlockMemory(),
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
    with device.target:
        return tvm.compile(mod, target=device.target, relax_pipeline=pipeline)
