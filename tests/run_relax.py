"""Compile and run a Relax function made of a few operators, through the default schedules."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tvm
from tvm import relax

from tvmquant.passes.schedule import ScheduleFunctions
from tvmquant.schedules.compute import legalize_ops
from tvmquant.targets import Device, get_device


def const(array: np.ndarray) -> relax.Expr:
    return relax.const(np.asarray(array, order="C"))


def build_module(inputs: Sequence[np.ndarray], body: Callable[..., relax.Expr]) -> tvm.IRModule:
    """Module with ``main(*inputs)``; ``body(emit, *vars)`` emits all but its last operator."""
    bb = relax.BlockBuilder()
    params = [
        relax.Var(f"x{i}", relax.TensorType(list(a.shape), str(a.dtype)))
        for i, a in enumerate(inputs)
    ]
    with bb.function("main", params):
        with bb.dataflow():
            out = bb.emit_output(body(bb.emit, *params))
        bb.emit_func_output(out)
    return bb.get()


def lower(mod: tvm.IRModule, *, fuse: bool = True) -> tvm.IRModule:
    """Legalize and fuse, as the pipeline does before scheduling."""
    passes = [legalize_ops()]
    if fuse:
        passes += [
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
        ]
    return tvm.transform.Sequential(passes)(mod)


def schedule(mod: tvm.IRModule, device: Device | None = None) -> tvm.IRModule:
    return ScheduleFunctions(device or get_device())(lower(mod))


def execute(mod: tvm.IRModule, inputs: Sequence[np.ndarray], device: Device | None = None):
    """Compile and run; one array, or a tuple of arrays."""
    device = device or get_device()
    vm = relax.VirtualMachine(tvm.compile(mod, target=device.target), tvm.cpu())
    out = vm["main"](*(tvm.runtime.tensor(np.asarray(a, order="C")) for a in inputs))
    return out.numpy() if hasattr(out, "numpy") else tuple(part.numpy() for part in out)


def run(inputs: Sequence[np.ndarray], body: Callable[..., relax.Expr], device=None):
    """Build, schedule, compile and run ``body`` on ``inputs``."""
    return execute(schedule(build_module(inputs, body), device), inputs, device)
