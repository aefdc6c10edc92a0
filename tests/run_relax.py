"""Compile and run a Relax function made of a few operators, through the default schedules."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from unittest import mock

import numpy as np
import tvm
from tvm import relax, tirx

from tvmquant.passes.schedule import RULES, UNSCHEDULED, ScheduleFunctions
from tvmquant.schedules.compute import legalize_ops
from tvmquant.schedules.default import parallel
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


def rules_of(mod: tvm.IRModule) -> set[str]:
    """Rules that scheduled the functions of ``mod``."""
    return {
        str(rule)
        for func in mod.functions.values()
        if isinstance(func, tirx.PrimFunc)
        for rule in func.attrs.get(RULES, [])
    }


def check_case(inputs, body, rule: str, threads: int) -> None:
    """Assert that ``rule`` hits and that the schedule changes no result.

    With one thread nothing runs in parallel, with more everything does that may.
    """
    device = dataclasses.replace(get_device(), num_cores=threads)
    mod = build_module(inputs, body)
    with mock.patch.object(parallel, "_WORTH", 0.0):
        scheduled = schedule(mod, device)
    assert list(scheduled.attrs[UNSCHEDULED]) == []
    assert rule in rules_of(scheduled)
    assert ("T.parallel" in scheduled.script()) <= (threads > 1)
    got, want = execute(scheduled, inputs, device), execute(lower(mod), inputs, device)
    if want.dtype == np.float32:
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    else:
        np.testing.assert_array_equal(got, want)
