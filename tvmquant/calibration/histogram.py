"""A histogram that widens, which most range estimators keep.

It widens by whole factors of two when a value falls outside, merging bins pairwise, so the stream
may be of any length.
"""

from __future__ import annotations

import numpy as np

# Folded to magnitudes and cut at the largest value, at least 2048 bins remain.
BINS = 8192
# Values that far beyond the bulk of all others are set aside until it is known how often they come.
OUTLIER_RATIO = 1e3
BULK = 0.999
_ASIDE = 4096
_SAMPLED = 8192
# Narrower histograms would overflow float32.
_NARROWEST = 1e-30


class Histogram:
    """Counts over a symmetric range ``[-limit, limit]`` that doubles when it must.

    Besides the counts the exact minimum and maximum are kept. With ``robust``, values a thousand
    times beyond 99.9 % of the others do not count, unless more than a quarter of the updates have
    any: one broken sample has no say, tensors of a few large values in every sample do.
    """

    def __init__(self, bins: int = BINS, *, robust: bool = False) -> None:
        self.bins = bins
        self.robust = robust
        self.limit = 0.0
        self.counts = np.zeros(bins, np.int64)
        self.low = np.inf
        self.high = -np.inf
        self.updates = 0
        self.updates_aside = 0
        self.aside = np.zeros(0, np.float32)

    def update(self, values: np.ndarray) -> None:
        """Observe one array of finite values."""
        if not values.size:
            return
        values = np.ravel(values)
        self.updates += 1
        if self.robust:
            values = self._without_outliers(values)
        self._count(values)

    def settle(self) -> None:
        """Count what was set aside if it is no exception; before the histogram is read."""
        if self.aside.size and 4 * self.updates_aside > self.updates:
            aside, self.aside = self.aside, np.zeros(0, np.float32)
            self.updates_aside = 0
            self._count(aside)

    @property
    def leaves_out(self) -> bool:
        """Whether outliers were seen that do not count."""
        return bool(self.aside.size)

    def _without_outliers(self, values: np.ndarray) -> np.ndarray:
        peak = max(-float(values.min()), float(values.max()))
        if peak <= OUTLIER_RATIO * self.limit:
            return values
        bound = OUTLIER_RATIO * max(self.limit, bulk(values))
        if peak <= bound:
            return values
        outside = np.abs(values) > bound
        found = values[outside].astype(np.float32)
        self.updates_aside += 1
        room = _ASIDE - self.aside.size
        if found.size > room:
            # Too many to be an exception.
            self.updates_aside = self.updates
        self.aside = np.concatenate([self.aside, found[: max(room, 0)]])
        return values[~outside]

    def _count(self, values: np.ndarray) -> None:
        if not values.size:
            return
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        peak = max(abs(self.low), abs(self.high))
        if self.limit == 0.0:
            self.limit = max(peak, _NARROWEST) if peak > 0 else 1.0
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


def bulk(values: np.ndarray) -> float:
    """Magnitude below which 99.9 % of the values lie that are not zero; zero when all are."""
    sampled = _sampled_magnitudes(values)
    if not sampled.size:
        sampled = _sampled_magnitudes(values[values != 0])
    return float(np.quantile(sampled, BULK, method="lower")) if sampled.size else 0.0


def _sampled_magnitudes(values: np.ndarray) -> np.ndarray:
    sampled = np.abs(values[:: max(1, values.size // _SAMPLED)])
    return sampled[sampled > 0]


class HistogramEstimator:
    """Base of the estimators that decide on a histogram of everything observed."""

    def __init__(self) -> None:
        self._histogram = Histogram(robust=True)

    @property
    def histogram(self) -> Histogram:
        """What was observed."""
        self._histogram.settle()
        return self._histogram

    @histogram.setter
    def histogram(self, histogram: Histogram) -> None:
        self._histogram = histogram

    def update(self, values: np.ndarray) -> None:
        """Observe one array of finite values."""
        self._histogram.update(values)
