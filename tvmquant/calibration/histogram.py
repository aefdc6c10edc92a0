"""Histogram-based range estimators: percentile and mean squared error.

The histogram widens by whole factors of two when a value falls outside, merging bins pairwise, so
the stream may be of any length.
"""

from __future__ import annotations

import numpy as np

from tvmquant.calibration.params import activation_params

BINS = 4096


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


class PercentileEstimator:
    """Keeps the given share of the values, cutting both tails alike.

    Parameters
    ----------
    percentile : float
        Share kept, in percent; 100 is min-max.
    """

    def __init__(self, percentile: float) -> None:
        self.percentile = percentile
        self.histogram = Histogram()

    def update(self, values: np.ndarray) -> None:
        """Observe one array."""
        self.histogram.update(values)

    def range(self, bits: int, symmetric: bool) -> tuple[float, float]:
        """Range between the two percentiles, never wider than what was seen."""
        h = self.histogram
        total = h.counts.sum()
        if total == 0:
            return 0.0, 0.0
        tail = (1 - self.percentile / 100) / 2 * total
        below = np.cumsum(h.counts)
        width = 2 * h.limit / h.bins
        first = int(np.searchsorted(below, tail, side="right"))
        last = int(np.searchsorted(below, total - tail, side="left"))
        low = max(h.low, -h.limit + width * first)
        high = min(h.high, -h.limit + width * (min(last, h.bins - 1) + 1))
        return low, high


class MseEstimator:
    """Clipping range of least squared quantization error, by search over both ends.

    See Nagel et al. 2021, "A White Paper on Neural Network Quantization", eq. 13.
    """

    STEPS = 48

    def __init__(self) -> None:
        self.histogram = Histogram()

    def update(self, values: np.ndarray) -> None:
        """Observe one array."""
        self.histogram.update(values)

    def range(self, bits: int, symmetric: bool) -> tuple[float, float]:
        """Best ``(low, high)`` for ``bits`` among fractions of the observed range."""
        h = self.histogram
        if h.counts.sum() == 0:
            return 0.0, 0.0
        used = h.counts > 0
        x, weight = h.centers[used], h.counts[used].astype(np.float64)
        low, high = min(h.low, 0.0), max(h.high, 0.0)
        fractions = np.arange(1, self.STEPS + 1) / self.STEPS

        def error(a: float, b: float) -> float:
            scale, zero = activation_params(a, b, bits, symmetric)
            q = np.clip(np.rint(x / scale) + zero, 0, 2**bits - 1)
            return float(np.sum(weight * ((q - zero) * scale - x) ** 2))

        best = (error(low, high), low, high)
        # Shrink both ends together, then each end alone around the best.
        for f in fractions:
            best = min(best, (error(low * f, high * f), low * f, high * f))
        for f in fractions:
            best = min(best, (error(low * f, best[2]), low * f, best[2]))
        for f in fractions:
            best = min(best, (error(best[1], high * f), best[1], high * f))
        return best[1], best[2]
