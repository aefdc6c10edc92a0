"""The protocol of range estimators and their registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from tvmquant.calibration.aciq import AciqEstimator
from tvmquant.calibration.cross_entropy import CrossEntropyEstimator
from tvmquant.calibration.entropy import EntropyEstimator
from tvmquant.calibration.fixed_point import FixedPointEstimator
from tvmquant.calibration.minmax import MinMaxEstimator
from tvmquant.calibration.moving_average import MovingAverageEstimator
from tvmquant.calibration.mse import MseEstimator
from tvmquant.calibration.percentile import PercentileEstimator


class RangeEstimator(Protocol):
    """Observes values batch by batch and proposes the range to represent."""

    def update(self, values: np.ndarray) -> None:
        """Observe one array of float32 values, any shape."""

    def range(self, bits: int, symmetric: bool) -> tuple[float, float]:
        """Range ``(low, high)`` for a tensor of ``bits`` bits."""


_ESTIMATORS: dict[str, Callable[[], RangeEstimator]] = {
    "minmax": MinMaxEstimator,
    "moving_average": MovingAverageEstimator,
    "mse": MseEstimator,
    "entropy": EntropyEstimator,
    "aciq": AciqEstimator,
    "cross_entropy": CrossEntropyEstimator,
    "fixed_point": FixedPointEstimator,
}
ESTIMATOR_NAMES = ("percentile", *_ESTIMATORS)


def make_estimator(name: str, percentile: float = 99.99) -> RangeEstimator:
    """Estimator by its name in a recipe, one of ``ESTIMATOR_NAMES``."""
    if name == "percentile":
        return PercentileEstimator(percentile)
    if name not in _ESTIMATORS:
        raise ValueError(f"unknown range estimator {name!r}: {', '.join(ESTIMATOR_NAMES)}")
    return _ESTIMATORS[name]()
