"""tvmquant itself."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np

from benchmarks import limits
from benchmarks.case import Case, Inputs
from benchmarks.peers.base import Contender


class _Session:
    def __init__(self, model: Any, case: Case) -> None:
        self.model = model
        self.arrays = [case.inputs[info.name] for info in model.inputs]

    def infer(self, inputs: Inputs) -> list[np.ndarray]:
        return list(self.model.run(inputs).values())

    def run(self) -> Any:
        return self.model(*self.arrays)


def _build(bits: str, case: Case) -> Any:
    import tvmquant

    return tvmquant.compile(
        str(case.path),
        limits.device(),
        bits=bits,
        calibration=case.samples,
        input_shapes={name: array.shape for name, array in case.inputs.items()},
    )


def _load(model: Any, case: Case, _threads: int) -> _Session:
    return _Session(model, case)


def _threading(threads: int) -> AbstractContextManager:
    from tvmquant.runtime.threads import use_threads

    return use_threads(threads)


def precision_name(bits: str) -> str:
    """``8`` → ``w8a8``."""
    from tvmquant.precision import parse_bits

    return "w{}a{}".format(*parse_bits(bits))


def contenders(bits: list[str]) -> list[Contender]:
    """One for each precision."""
    return [
        Contender("tvmquant", precision_name(b), partial(_build, b), _load, threading=_threading)
        for b in bits
    ]
