"""The protocol of range estimators and their registry."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from tvmquant.calibration.histogram import MseEstimator, PercentileEstimator
from tvmquant.calibration.minmax import MinMaxEstimator


class RangeEstimator(Protocol):
    """Observes values batch by batch and proposes the range to represent."""

    def update(self, values: np.ndarray) -> None:
        """Observe one array of float32 values, any shape."""

    def range(self, bits: int, symmetric: bool) -> tuple[float, float]:
        """Range ``(low, high)`` for a tensor of ``bits`` bits."""


def make_estimator(name: str, percentile: float = 99.99) -> RangeEstimator:
    """Estimator by its name in a recipe: ``minmax``, ``percentile`` or ``mse``."""
    if name == "minmax":
        return MinMaxEstimator()
    if name == "percentile":
        return PercentileEstimator(percentile)
    if name == "mse":
        return MseEstimator()
    raise ValueError(f"unknown range estimator {name!r}")
