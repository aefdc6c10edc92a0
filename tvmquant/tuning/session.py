"""Building, checking and timing one candidate; in the process that calls it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tvm

from tvmquant.build import compile_module
from tvmquant.schedules.registry import resolve_rule, rules_key
from tvmquant.schedules.selection import expansion_of
from tvmquant.schedules.space import configured
from tvmquant.schedules.workload import Kernel, Workload
from tvmquant.targets.device import Device
from tvmquant.tuning.data import Case, make_case
from tvmquant.tuning.timing import is_gpu, seconds_of

# What memory is filled with that a kernel must write.
_GARBAGE = 0xA5
_FLOAT_TOLERANCE = 1e-3


class CandidateError(Exception):
    """A candidate that cannot win: it does not build, or its output is wrong."""


@dataclass(frozen=True)
class Built:
    """Code in this process and what to call it with.

    Attributes
    ----------
    module : tvm.runtime.Module
    name : str
    args : list of tvm.runtime.Tensor
        Inputs, then outputs.
    device : tvm.runtime.Device
        Where they are.
    """

    module: Any
    name: str
    args: list[Any]
    device: Any = field(default_factory=tvm.cpu)


class Task(Protocol):
    """What a worker can build; it is pickled on its way there."""

    reference: str

    @property
    def compared(self) -> slice:
        """Which arguments must equal the reference after a run."""

    @property
    def exact(self) -> bool:
        """Whether float arrays must be equal bit for bit, as all others must be."""

    def build(self) -> Built:
        """Build it.

        Raises
        ------
        CandidateError
            If that is impossible.
        """


@dataclass(frozen=True)
class Program:
    """A kernel and what it is measured with.

    Attributes
    ----------
    workload : Workload
    kernel : Kernel
    """

    workload: Workload
    kernel: Kernel

    @property
    def functions(self) -> tvm.IRModule:
        """``kernel`` and, where it expands constants, ``expand``."""
        functions = {"kernel": self.kernel.prim_func().with_attr("global_symbol", "kernel")}
        expansion = expansion_of(self.kernel)
        if expansion is not None:
            functions["expand"] = expansion.func.with_attr("global_symbol", "expand")
        return tvm.IRModule(functions)

    def loaded(self, module: Any, device: Any) -> Built:
        """Put the arrays where the module is.

        Parameters
        ----------
        module : tvm.runtime.Module
            What became of :attr:`functions`, here or on another machine.
        device : tvm.runtime.Device
        """
        case = _case(self.workload)

        def put(array: np.ndarray) -> Any:
            return tvm.runtime.tensor(array, device)

        arrays = [put(a) for a in self.kernel.pack(case.weight, case.bias, case.params)]
        expansion = expansion_of(self.kernel)
        if expansion is not None:
            made = [tvm.runtime.empty(shape, dtype, device) for shape, dtype in expansion.outputs]
            module["expand"](*arrays[: expansion.inputs], *made)
            arrays[: expansion.inputs] = made
        if case.qinfo is not None:
            arrays.append(put(case.qinfo))
        # Memory that was freed may hold the right output of another candidate.
        out = np.empty(self.workload.out_shape, self.workload.out_dtype)
        out.view(np.uint8).fill(_GARBAGE)
        return Built(module, "kernel", [put(case.x), *arrays, put(out)], device)


@dataclass(frozen=True)
class Job:
    """A kernel of a workload.

    Attributes
    ----------
    workload : Workload
    device : Device
    rule : str
    config : mapping
    reference : str
        ``.npz`` of the arguments after a run, to compare with; written if it does not exist.
    """

    workload: Workload
    device: Device
    rule: str
    config: Mapping[str, Any]
    reference: str

    def build(self) -> Built:
        """As :meth:`Task.build`; all tasks of a workload in a process share their arrays."""
        program = self.program()
        module = compile_module(program.functions, self.device).jit()
        return program.loaded(module, where(self.device))

    def program(self) -> Program:
        """The kernel before it is built.

        Raises
        ------
        CandidateError
            If the rule makes none.
        """
        rule = resolve_rule(rules_key(self.workload.op, self.device), self.rule)
        kernel = rule(self.workload, self.device)
        if kernel is None:
            raise CandidateError("the rule does not cover the workload")
        return Program(self.workload, configured(kernel, self.config))

    @property
    def compared(self) -> slice:
        """Only the output: what a kernel packs is its own affair."""
        return slice(-1, None)

    @property
    def exact(self) -> bool:
        """Float sums may be ordered differently."""
        return not self.workload.op.endswith(("_float", "_weight_only"))


class Session:
    """Holds what was built until it is dropped."""

    def __init__(self) -> None:
        self._built: dict[int, Built] = {}

    def build(self, number: int, job: Task) -> None:
        """Build a candidate, run it once and check its output.

        Parameters
        ----------
        number : int
            Its handle for :meth:`time` and :meth:`drop`.
        job : Task

        Raises
        ------
        CandidateError
            If it cannot be built or its output differs from the reference.
        """
        built = job.build()
        run_and_check(built, job)
        self._built[number] = built

    def time(self, number: int, best: float = math.inf) -> float:
        """Seconds of one run, see :func:`tvmquant.tuning.timing.seconds_of`.

        Clearly slower candidates than ``best`` are measured less.
        """
        return time_of(self._built[number], best)

    def drop(self, numbers: list[int]) -> None:
        """Forget candidates."""
        for number in numbers:
            self._built.pop(number, None)


def run_and_check(built: Built, job: Task) -> None:
    """Run once; the output must equal the reference, or becomes it.

    Raises
    ------
    CandidateError
        If it differs.
    """
    built.module[built.name](*built.args)
    _check_output(built, job)


def _check_output(built: Built, job: Task) -> None:
    results = [arg.numpy() for arg in built.args[job.compared]]
    _check(results, Path(job.reference), job.exact)


def time_of(built: Built, best: float, flush: str = "") -> float:
    """See :func:`tvmquant.tuning.timing.seconds_of`."""
    return seconds_of(built.module, built.name, built.args, built.device, best, flush)


def measured(job: Job, module: Any, device: Any, best: float, flush: str = "") -> float:
    """Run and check a candidate that was loaded, and return the seconds of a run.

    Parameters
    ----------
    job : Job
        Its reference must exist.
    module : tvm.runtime.Module
    device : tvm.runtime.Device
        Where its arrays shall be.
    best : float
    flush : str
        See :func:`tvmquant.tuning.timing.seconds_of`.

    Raises
    ------
    CandidateError
        If its output is wrong; on a GPU also if it is after many runs.
    """
    built = job.program().loaded(module, device)
    run_and_check(built, job)
    seconds = time_of(built, best, flush)
    if is_gpu(device):
        # Threads that race for memory are right most of the time.
        _check_output(built, job)
    return seconds


def where(device: Device, machine: Any = tvm) -> Any:
    """The TVM device that arrays of kernels for ``device`` live on.

    Parameters
    ----------
    device : Device
    machine : module or tvm.rpc.RPCSession
        What makes devices; TVM itself for this machine.
    """
    return machine.cpu(0) if device.cuda is None else machine.cuda(0)


@lru_cache(maxsize=1)
def _case(workload: Workload) -> Case:
    return make_case(workload)


def _check(results: list[np.ndarray], path: Path, exact: bool) -> None:
    """Compare with the reference, or become it."""
    if not path.exists():
        part = path.with_suffix(".part.npz")
        np.savez(part, *results)
        part.replace(path)
        return
    with np.load(path) as reference:
        wanted = [reference[f"arr_{i}"] for i in range(len(results))]
    for out, want in zip(results, wanted):
        if out.dtype.kind == "f" and not exact:
            error = float(np.abs(out - want).max())
            if not error <= _FLOAT_TOLERANCE * max(1.0, float(np.abs(want).max())):
                raise CandidateError(f"wrong output: differs by up to {error:.3g}")
        elif not np.array_equal(out, want, equal_nan=out.dtype.kind == "f"):
            count = int((out != want).sum())
            raise CandidateError(f"wrong output: {count} of {out.size} values differ")
