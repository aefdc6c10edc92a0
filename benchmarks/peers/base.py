"""What an engine must offer to be measured."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from benchmarks.case import Case, Inputs


class Unavailable(Exception):
    """An engine cannot take part; the message says why."""


class Session(Protocol):
    """A loaded model with a fixed number of threads."""

    def infer(self, inputs: Inputs) -> list[np.ndarray]:
        """Outputs in the order of the ONNX file."""

    def run(self) -> Any:
        """Run on the inputs that are timed: whatever a user of the engine would call."""


@dataclass(frozen=True)
class Contender:
    """One engine at one precision.

    Attributes
    ----------
    engine : str
    precision : str
        ``fp32``, ``int8`` or, for tvmquant, ``w4a8`` and so on.
    variant : str
        Tells apart contenders of one engine and precision.
    build : callable
        ``Case`` to whatever ``load`` takes; the slow part, done once.
    load : callable
        ``(built, Case, threads) -> Session``.
    threading : callable
        Context in which sessions of so many threads run.
    """

    engine: str
    precision: str
    build: Callable[[Case], Any]
    load: Callable[[Any, Case, int], Session]
    variant: str = ""
    threading: Callable[[int], Any] = field(default=lambda threads: nullcontext())

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.engine, self.precision, self.variant)))


def need(module: str, package: str) -> Any:
    """Import a module of a peer, or say how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name and not module.startswith(error.name.split(".")[0]):
            raise Unavailable(f"{package}: {error}") from None
        raise Unavailable(f"not installed: pip install {package}") from None
