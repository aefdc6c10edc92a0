"""Measuring schedules of TE functions: the light operators, and products of activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import tirx

from tvmquant.schedules.default import schedule_function
from tvmquant.schedules.traces import replay
from tvmquant.targets.device import Device
from tvmquant.tuning.session import Built


@dataclass(frozen=True)
class FunctionJob:
    """A TE function with a schedule, for a worker.

    Attributes
    ----------
    func : str
        The unscheduled function as TVM's JSON.
    device : Device
    trace : list or None
        Schedule as JSON; ``None`` for the default rules.
    reference : str
        See :class:`tvmquant.tuning.session.Job`.
    """

    func: str
    device: Device
    trace: Sequence[Any] | None
    reference: str

    @property
    def compared(self) -> slice:
        """All arguments: nobody says which of them are outputs."""
        return slice(None)

    @property
    def exact(self) -> bool:
        """Float results may differ in rounding, as they may between the default rules."""
        return False

    def build(self) -> Built:
        """As :meth:`tvmquant.tuning.session.Task.build`."""
        func = tvm.ir.load_json(self.func)
        if self.trace is not None:
            scheduled = replay(func, self.trace)
        else:
            made = schedule_function(func, self.device)
            scheduled = func if made is None else made.function
        scheduled = scheduled.with_attr({"global_symbol": "main", "tvmquant.scheduled": True})
        module = tvm.compile(tvm.IRModule({"main": scheduled}), target=self.device.target).jit()
        return Built(module, "main", random_arguments(func))


def random_arguments(func: tirx.PrimFunc, seed: int = 0) -> list[Any]:
    """An array for each parameter, the same ones in every process."""
    rng = np.random.default_rng(seed)
    return [
        tvm.runtime.tensor(_random(tuple(int(d) for d in p.shape), str(p.dtype), rng))
        for p in func.params
    ]


def _random(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> np.ndarray:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return rng.standard_normal(shape).astype(kind)
    if kind.kind == "b":
        return rng.integers(0, 2, shape).astype(kind)
    # Wide integers may be shifts or indices: small ones are harmless.
    low, high = (np.iinfo(kind).min, np.iinfo(kind).max) if kind.itemsize == 1 else (0, 2)
    return rng.integers(low, high, shape, endpoint=True).astype(kind)
