"""What single operators make of distributions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tvm import relax

from tvmquant.calibration.spread import Spread, combine, from_samples
from tvmquant.interpreter.interpreter import EVALUATORS
from tvmquant.ops import op_name


def applied(
    value: relax.Call, name: str, args: list[Any], roots: Mapping[Any, Spread]
) -> Spread | None:
    """An elementwise operator on the points of its arguments."""
    seen = _LastAxis(value) if name == "nn.prelu" else value
    evaluate = EVALUATORS[op_name(value) or ""]

    def function(*points: np.ndarray) -> np.ndarray:
        rest = iter(points)
        filled = [next(rest) if isinstance(arg, Spread) else arg for arg in args]
        return _finite(np.asarray(evaluate(filled, seen)).astype(np.float64))

    spreads = [arg for arg in args if isinstance(arg, Spread)]
    if len({spread.channels for spread in spreads} - {1}) > 1:
        return None
    if len(roots) == 1:
        return Spread(function(*(spread.points for spread in spreads)), spreads[0].root)
    if len(spreads) == 2 and len(args) == 2:
        return combine(function, *spreads)
    return None


def picked(points: np.ndarray, ids: np.ndarray) -> Spread | None:
    """Spread of a tensor whose elements are these channels of ``points`` (0: padding)."""
    if not ids.size or ids.ndim == 0:
        return None
    rows = np.rint(ids).astype(np.int64).reshape(-1, ids.shape[-1])
    high = rows.max(0)
    if np.all((rows == high) | (rows == 0)) and high.all():
        return Spread(points[:, high - 1])
    counts = np.bincount(rows.reshape(-1), minlength=points.shape[1] + 1)[1:]
    return Spread(points).pooled(counts.astype(np.float64)) if counts.any() else None


def measured(results: Any) -> Spread | None:
    """Spread of observed arrays, by channel where there are enough values of each."""
    arrays = [np.asarray(result, np.float64) for result in results]
    width = arrays[0].shape[-1] if arrays[0].ndim else 1
    values = np.concatenate([array.reshape(-1, max(width, 1)) for array in arrays])
    values = _finite(values)
    return from_samples(values if len(values) >= 256 else values.reshape(-1, 1))


def _finite(values: np.ndarray) -> np.ndarray:
    """Without the infinities of a pole, which would make every range infinite."""
    bad = ~np.isfinite(values)
    if not bad.any():
        return values
    largest = np.abs(values[~bad]).max(initial=0.0)
    return np.nan_to_num(values, nan=0.0, posinf=largest, neginf=-largest)


class _LastAxis:
    """A PReLU call as its evaluator must see it here."""

    def __init__(self, call: relax.Call) -> None:
        self.attrs = {"axis": -1}
        self.op = call.op
