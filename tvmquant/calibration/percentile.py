"""The range that keeps a share of the values."""

from __future__ import annotations

import numpy as np

from tvmquant.calibration.histogram import HistogramEstimator


class PercentileEstimator(HistogramEstimator):
    """Keeps the given share of the values, cutting both tails alike.

    Parameters
    ----------
    percentile : float
        Share kept, in percent; 100 is min-max.
    """

    def __init__(self, percentile: float) -> None:
        super().__init__()
        self.percentile = percentile

    def range(self, bits: int, symmetric: bool) -> tuple[float, float]:
        """Range between the two percentiles, never wider than what was seen."""
        h = self.histogram
        total = h.counts.sum()
        if total == 0:
            return 0.0, 0.0
        tail = (1 - self.percentile / 100) / 2 * total
        below = np.cumsum(h.counts)
        width = h.width
        first = int(np.searchsorted(below, tail, side="right"))
        last = int(np.searchsorted(below, total - tail, side="left"))
        low = max(h.low, -h.limit + width * first)
        high = min(h.high, -h.limit + width * (min(last, h.bins - 1) + 1))
        return low, high
