"""A network with its data, and what counts as accuracy for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks.compare import cosine

Inputs = dict[str, np.ndarray]
METRICS = {
    "top1": "top-1, %",
    "agreement": "same class as float, %",
    "cosine": "cosine to float, %",
}


@dataclass
class Network:
    """A float ONNX model, calibration data by draw, and test data.

    Attributes
    ----------
    name : str
    path : Path
    metric : str
        A key of ``METRICS``.
    calibration : callable
        Number of the draw → batches in the shapes of ``test``.
    test : list of dict
        Batches, all of one shape.
    labels : np.ndarray or None
        Classes of all test inputs, for ``top1``.
    output : int
        Which output counts.
    about : str
        One line on the data.
    """

    name: str
    path: Path
    metric: str
    calibration: Callable[[int], list[Inputs]]
    test: list[Inputs]
    labels: np.ndarray | None = None
    output: int = 0
    about: str = ""
    shapes: dict[str, tuple[int, ...]] = field(init=False)

    def __post_init__(self) -> None:
        self.shapes = {name: array.shape for name, array in self.test[0].items()}

    @cached_property
    def reference(self) -> np.ndarray:
        """The counted output of the float model in ONNX Runtime, one row a test input."""
        from benchmarks.peers.onnxruntime import OrtSession

        session = OrtSession(self.path, self.test[0], threads=1)
        return self.evaluate(session.infer)

    @property
    def float_score(self) -> float:
        """What float gets, in percent."""
        return self.score(self.reference)

    def evaluate(self, infer: Callable[[Inputs], Sequence[np.ndarray]]) -> np.ndarray:
        """Counted output of all test inputs, one row each."""
        return np.concatenate([rows(np.asarray(infer(b)[self.output])) for b in self.test])

    def score(self, outputs: np.ndarray) -> float:
        """Accuracy in percent of what :meth:`evaluate` returned."""
        if self.metric == "top1":
            return 100 * float((outputs.argmax(1) == self.labels).mean())
        if self.metric == "agreement":
            return 100 * float((outputs.argmax(1) == self.reference.argmax(1)).mean())
        return 100 * float(np.mean([cosine(o, r) for o, r in zip(outputs, self.reference)]))


def rows(output: np.ndarray) -> np.ndarray:
    """One row a sample."""
    return output.reshape(len(output), -1)


def batches(name: str, x: np.ndarray, size: int) -> list[Inputs]:
    """Cut samples into batches of one input; a rest is left out."""
    return [{name: x[i : i + size]} for i in range(0, len(x) - size + 1, size)]
