"""A histogram that widens, which most range estimators keep.

It widens by whole factors of two when a value falls outside, merging bins pairwise, so the stream
may be of any length.
"""

from __future__ import annotations

import numpy as np

# Folded to magnitudes and cut at the largest value, at least 2048 bins remain.
BINS = 8192


class Histogram:
    """Counts over a symmetric range ``[-limit, limit]`` that doubles when it must.

    Besides the counts the exact minimum and maximum are kept.
    """

    def __init__(self, bins: int = BINS) -> None:
        self.bins = bins
        self.limit = 0.0
        self.counts = np.zeros(bins, np.int64)
        self.low = np.inf
        self.high = -np.inf

    def update(self, values: np.ndarray) -> None:
        """Observe one array."""
        if not values.size:
            return
        values = np.ravel(values)
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        peak = max(abs(self.low), abs(self.high))
        if self.limit == 0.0:
            self.limit = peak if peak > 0 else 1.0
        while peak > self.limit:
            quarter = self.bins // 4
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.zeros_like(self.counts)
            self.counts[quarter : quarter + self.bins // 2] = merged
            self.limit *= 2
        # A third of the time of np.histogram, and calibration spends most of its time here.
        index = (values * np.float32(self.bins / (2 * self.limit))).astype(np.float32)
        index = (index + np.float32(self.bins / 2)).astype(np.int32)
        np.clip(index, 0, self.bins - 1, out=index)
        self.counts += np.bincount(index, minlength=self.bins)

    @property
    def centers(self) -> np.ndarray:
        """Centre of every bin, float64 ``[bins]``."""
        width = 2 * self.limit / self.bins
        return -self.limit + width * (np.arange(self.bins) + 0.5)

    def magnitudes(self) -> np.ndarray:
        """Counts of ``|x|`` in bins of the same width from zero up to the largest value seen."""
        half = self.bins // 2
        folded = self.counts[half:] + self.counts[:half][::-1]
        used = np.flatnonzero(folded)
        return folded[: used[-1] + 1] if used.size else folded[:0]

    @property
    def width(self) -> float:
        """Width of a bin."""
        return 2 * self.limit / self.bins


class HistogramEstimator:
    """Base of the estimators that decide on a histogram of everything observed."""

    def __init__(self) -> None:
        self.histogram = Histogram()

    def update(self, values: np.ndarray) -> None:
        """Observe one array."""
        self.histogram.update(values)
