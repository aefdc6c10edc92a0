"""Outputs against the float model in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.case import Case, Inputs
from benchmarks.peers.base import Unavailable


def compare(
    infer: Callable[[Inputs], list[np.ndarray]], case: Case, reference: list[list[np.ndarray]]
) -> dict[str, Any]:
    """Cosine (mean over inputs of the worst float output), and top-1 where there are labels.

    Raises
    ------
    Unavailable
        If outputs are missing, of other sizes, or not finite: such times mean nothing.
    """
    cosines, predictions = [], []
    for inputs, expected in zip(case.test, reference):
        got = infer(inputs)
        if len(got) != len(expected):
            raise Unavailable(f"returns {len(got)} outputs instead of {len(expected)}")
        pairs = [(np.ravel(g), np.ravel(e)) for g, e in zip(got, expected) if e.dtype.kind == "f"]
        for g, e in pairs:
            if g.size != e.size:
                raise Unavailable(f"returns {g.size} values instead of {e.size}")
            if not np.isfinite(g).all():
                raise Unavailable("its outputs are not finite")
        cosines.append(min(cosine(g, e) for g, e in pairs))
        predictions.append(int(np.argmax(pairs[0][0])))
    result: dict[str, Any] = {"cosine": float(np.mean(cosines))}
    if case.labels is not None:
        result["top1"] = float(np.mean(np.array(predictions) == case.labels))
    return result


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of the angle between two arrays; 1 for two that are zero everywhere."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norms) if norms else float(np.array_equal(a, b))
