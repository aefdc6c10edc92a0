"""Exponential moving average of the ranges of batches."""

from __future__ import annotations

import numpy as np


class MovingAverageEstimator:
    """Smoothed minimum and maximum: one odd batch moves the range only a little.

    See Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", section 3.1.

    Parameters
    ----------
    momentum : float
        Weight of what was seen before; the first batch counts whole.
    """

    def __init__(self, momentum: float = 0.9) -> None:
        self.momentum = momentum
        self.low = 0.0
        self.high = 0.0
        self._started = False

    def update(self, values: np.ndarray) -> None:
        """Observe one array."""
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if self._started:
            low += self.momentum * (self.low - low)
            high += self.momentum * (self.high - high)
        self.low, self.high, self._started = low, high, True

    def range(self, bits: int, symmetric: bool) -> tuple[float, float]:
        """Smoothed ``(min, max)``; ``(0, 0)`` when nothing was seen."""
        return self.low, self.high
