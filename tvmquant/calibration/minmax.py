"""Smallest and largest value seen."""

from __future__ import annotations

import numpy as np


class MinMaxEstimator:
    """Range of everything observed: nothing is clipped."""

    def __init__(self) -> None:
        self.low = np.inf
        self.high = -np.inf

    def update(self, values: np.ndarray) -> None:
        """Observe one array."""
        if values.size:
            self.low = min(self.low, float(values.min()))
            self.high = max(self.high, float(values.max()))

    def range(self, bits: int, symmetric: bool) -> tuple[float, float]:
        """Observed ``(min, max)``; ``(0, 0)`` when nothing was seen."""
        return (self.low, self.high) if self.low <= self.high else (0.0, 0.0)
