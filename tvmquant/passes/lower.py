"""Phase 6: packed layers → PrimFuncs, the rest legalized, fused and scheduled."""

from __future__ import annotations

import json
from typing import Any

import tvm
from tvm import relax

from tvmquant.graph import Builder, Graph, rewrite
from tvmquant.ops import is_op
from tvmquant.ops.dynamic import DYNAMIC_QUANTIZE
from tvmquant.ops.integer import ints
from tvmquant.passes.early_transposes import early_transposes
from tvmquant.passes.plain_names import plain_names
from tvmquant.passes.schedule import ScheduleFunctions
from tvmquant.schedules.compute import legalize_ops
from tvmquant.schedules.selection import KernelTable, expansion_of
from tvmquant.schedules.workload import Expansion, Kernel, Workload

# PrimFunc attribute that marks a kernel made for a packed layer.
KERNEL = "tvmquant.kernel"
# Function that makes the expanded constants when a model is loaded.
PREPARE = "prepare"


def lower(mod: tvm.IRModule, kernels: KernelTable) -> tvm.IRModule:
    """Lower to scheduled PrimFuncs called by ``main``; the result is ready for the build.

    Where kernels expand constants at load time, ``main`` takes the expanded arrays as further
    parameters and a function ``prepare`` without parameters makes them.

    Parameters
    ----------
    mod : tvm.IRModule
        Output of ``pack``.
    kernels : KernelTable
        The one that ``pack`` used.
    """
    mod = fuse(mod, kernels)
    with kernels.device.target:
        return ScheduleFunctions(kernels.device, kernels.database)(mod)


def fuse(mod: tvm.IRModule, kernels: KernelTable) -> tvm.IRModule:
    """As :func:`lower`, but light operators are not scheduled yet."""
    caller = _Caller(kernels)
    mod = mod if kernels.device.cuda else early_transposes(mod)
    mod = caller.run(plain_names(mod) if kernels.device.cuda else mod)
    entries = [gv.name_hint for gv, f in mod.functions.items() if isinstance(f, relax.Function)]
    transform = relax.transform
    with kernels.device.target:
        mod = tvm.transform.Sequential(
            [
                relax.backend.DispatchSortScan(),  # sorting and cumulative sums
                legalize_ops(DYNAMIC_QUANTIZE),
                transform.RewriteDataflowReshape(),
                # A kernel of one input, at which the pass before fails; reshapes stay views.
                legalize_ops("relax.reshape"),
                transform.AnnotateTIROpPattern(),
                transform.FuseOps(),
                transform.FuseTIR(),
                transform.DeadCodeElimination(entries),
            ]
        )(mod)
    # Only now: RewriteDataflowReshape fails on functions like these, of one input and one output.
    return caller.with_prepare(mod)


class _Caller:
    """Turns packed calls into calls of their kernels' PrimFuncs."""

    def __init__(self, kernels: KernelTable) -> None:
        self.kernels = kernels
        self.functions: dict[str, Any] = {}
        # Packed call (by position) → the parameters of main that hold its expanded constants.
        self.expanded: list[list[relax.Var]] = []
        self.jobs: list[tuple[Expansion, list[Any]]] = []

    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        graph = Graph(mod)
        for _, value in graph.bindings:
            if is_op(value, "tvmquant.packed"):
                self.expanded.append(self._plan(value))
        self._positions = iter(self.expanded)
        extra = [var for variables in self.expanded for var in variables]
        return rewrite(mod, self._visit, params=[*graph.params, *extra])

    def _plan(self, value: relax.Call) -> list[relax.Var]:
        expansion = expansion_of(self._kernel(value))
        if expansion is None:
            return []
        self.jobs.append((expansion, list(value.args[1 : 1 + expansion.inputs])))
        first = sum(map(len, self.expanded))
        return [
            relax.Var(f"expanded_{first + i}", relax.TensorType(list(shape), dtype))
            for i, (shape, dtype) in enumerate(expansion.outputs)
        ]

    def _kernel(self, value: relax.Call) -> Kernel:
        return self.kernels[workload_from_json(str(value.attrs["workload"]))]

    def _visit(self, builder: Builder, var: relax.Var, value: Any) -> Any:
        if not is_op(value, "tvmquant.packed"):
            return None
        kernel = self._kernel(value)
        text = str(value.attrs["workload"])
        if text not in self.functions:
            func = kernel.prim_func().without_attr("global_symbol").with_attr(KERNEL, kernel.name)
            self.functions[text] = builder.bb.add_func(func, kernel.name)
        args = list(value.args)
        variables = next(self._positions)
        if variables:
            args[1 : 1 + expansion_of(kernel).inputs] = variables
        out = relax.TensorType(ints(value.attrs["out_shape"]), str(value.attrs["out_dtype"]))
        return relax.call_tir(self.functions[text], args, out)

    def with_prepare(self, mod: tvm.IRModule) -> tvm.IRModule:
        """Add the function that expands constants, if there are any to expand."""
        if not self.jobs:
            return mod
        bb = relax.BlockBuilder(mod)
        with bb.function(PREPARE, []):
            with bb.dataflow():
                made = []
                for expansion, stored in self.jobs:
                    func = expansion.func.without_attr("global_symbol")
                    callee = bb.add_func(func, "expand")
                    types = [relax.TensorType(list(s), d) for s, d in expansion.outputs]
                    single = len(types) == 1
                    result = bb.emit(relax.call_tir(callee, stored, types[0] if single else types))
                    count = range(len(types))
                    made += (
                        [result]
                        if single
                        else [bb.emit(relax.TupleGetItem(result, i)) for i in count]
                    )
                out = bb.emit_output(relax.Tuple(made))
            bb.emit_func_output(out)
        return bb.get()


def workload_from_json(text: str) -> Workload:
    """Inverse of ``json.dumps(asdict(workload))``."""
    data = json.loads(text)
    return Workload(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})
