"""The clipping threshold of least Kullback–Leibler divergence."""

from __future__ import annotations

import numpy as np

from tvmquant.calibration.histogram import HistogramEstimator

# Thresholds that are tried; the histogram has at least 2048 bins.
_CANDIDATES = 512
# A bin is capped at so many times the median around it, unless it has less than a share of all.
_AROUND, _ATOM, _SHARE = 65, 4, 1e-3


class EntropyEstimator(HistogramEstimator):
    """Threshold on the magnitude after which the quantized distribution tells most of the real one.

    The method of TensorRT (Migacz 2017, "8-bit Inference with TensorRT"): for every threshold the
    histogram below it, with everything above put into its last bin, is compared with the same
    histogram quantized to the levels that a magnitude has. One-sided values (after a ReLU) have
    ``2**bits`` levels from zero on, signed ones ``2**(bits - 1)`` of magnitudes.
    """

    def range(self, bits: int, symmetric: bool) -> tuple[float, float]:
        """Range that is cut at the best threshold, never wider than what was seen."""
        h = self.histogram
        counts = h.magnitudes().astype(np.float64)
        if not counts.size:
            return 0.0, 0.0
        one_sided = h.low >= 0 or h.high <= 0
        levels = 2 ** (bits if one_sided else max(bits - 1, 1))
        limit = best_threshold(counts, levels) * h.width
        return max(h.low, -limit), min(h.high, limit)


def best_threshold(counts: np.ndarray, levels: int) -> int:
    """Number of bins to keep: at least ``levels``, and half of what is not zero.

    Parameters
    ----------
    counts : np.ndarray
        Histogram of magnitudes, float64 ``[bins]``.
    levels : int
        Levels of a quantized magnitude.
    """
    bins = len(counts)
    # Exact zeros are represented exactly at any threshold and would drown all else.
    counts = counts.copy()
    counts[0] = counts[1] if bins > 1 else counts[0]
    if bins <= levels or counts.sum() == 0:
        return bins
    counts = _without_atoms(counts)
    # Of a few bins one may hold nearly all, as the last one does when everything else is clipped:
    # they are alike and say nothing.
    half = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2)) + 1
    tried = np.unique(np.linspace(max(levels, half), bins, _CANDIDATES).astype(int))
    divergences = [_divergence(counts, int(kept), levels) for kept in tried]
    # Of equal ones the widest: it clips least.
    best = len(tried) - 1 - int(np.argmin(divergences[::-1]))
    return int(tried[best])


def _without_atoms(counts: np.ndarray) -> np.ndarray:
    """Cap bins that hold far more than those around them.

    A single value that comes again and again (a constant background) makes such a bin. As the last
    one it would hide that everything above it was put there, too.
    """
    padded = np.pad(counts, _AROUND // 2, mode="edge")
    around = np.median(np.lib.stride_tricks.sliding_window_view(padded, _AROUND), axis=-1)
    return np.minimum(counts, np.maximum(_ATOM * around, _SHARE * counts.sum()))


def _divergence(counts: np.ndarray, kept: int, levels: int) -> float:
    inside = counts[:kept]
    clipped = inside.copy()
    clipped[-1] += counts[kept:].sum()
    present = clipped > 0
    # Level of every bin; the mass of a level spreads evenly over its bins that are not empty.
    level = np.arange(kept) * levels // kept
    mass = np.bincount(level, inside, levels)
    shares = np.bincount(level, present, levels)
    quantized = np.where(present, (mass / np.maximum(shares, 1))[level], 0.0)
    if quantized.sum() == 0:
        return np.inf
    p = clipped[present] / clipped.sum()
    q = quantized[present] / quantized.sum()
    # A level may hold clipped values only: a tiny share keeps the logarithm finite.
    return float(np.sum(p * np.log(p / np.maximum(q, 1e-12))))
