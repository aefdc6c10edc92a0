"""Quantize weights: symmetric, per channel or per tensor, min-max or least squared error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tvmquant.calibration.base import make_estimator
from tvmquant.calibration.histogram import Histogram, HistogramEstimator

_UNCLIPPED = ("minmax", "percentile", "moving_average")
_CHANNEL_BINS = 512


def quantize_weight(
    w: np.ndarray,
    *,
    bits: int,
    axis: int,
    granularity: str = "per_channel",
    estimator: str = "minmax",
    power_of_two: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Quantize a weight tensor symmetrically (zero point 0).

    Parameters
    ----------
    w : np.ndarray
        float32, any shape.
    bits : int
        8, 4, 2 or 1. One bit means ±1 times the scale, which is the mean magnitude (Rastegari
        et al. 2016, "XNOR-Net", eq. 6).
    axis : int
        Output channel axis.
    granularity : str
        ``per_channel`` or ``per_tensor``.
    estimator : str
        ``minmax``, ``percentile`` and ``moving_average`` (as min-max: there is no stream to
        sample), ``mse`` or another name of ``tvmquant.calibration.base``.
    power_of_two : bool
        Round scales to a power of two.

    Returns
    -------
    q : np.ndarray
        int8, shape of ``w``.
    scale : np.ndarray
        float32 ``[channels]`` or ``[1]``.
    """
    rows = np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1).astype(np.float64)
    if granularity == "per_tensor":
        rows = rows.reshape(1, -1)
    if bits == 1:
        scale = np.abs(rows).mean(1)
    else:
        qmin, qmax = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        # The longer negative side is used as well: -128 … 127.
        scale = np.maximum(rows.max(1) / qmax, -rows.min(1) / -qmin)
        if estimator == "mse":
            scale = _search(rows, scale, qmin, qmax)
        elif estimator not in _UNCLIPPED:
            limits = np.array([_limits(row, estimator, bits) for row in rows])
            clipped = np.maximum(limits[:, 1] / qmax, limits[:, 0] / qmin)
            scale = np.where(clipped > 0, np.minimum(scale, clipped), scale)
    # Without a zero among ±1, only a tiny scale makes a dead channel vanish.
    scale = np.where(scale > 1e-30, scale, 1e-30 if bits == 1 else 1.0)
    if power_of_two:
        scale = 2.0 ** np.ceil(np.log2(scale)) if bits > 1 else 2.0 ** np.rint(np.log2(scale))
    scale = scale.astype(np.float32)
    wide = scale.astype(np.float64)[:, None]
    if bits == 1:
        q = np.where(rows >= 0, 1, -1)
    else:
        q = np.clip(np.rint(rows / wide), qmin, qmax)
    moved = np.moveaxis(w, axis, 0).shape
    return np.ascontiguousarray(np.moveaxis(q.reshape(moved), 0, axis)).astype(np.int8), scale


def quantize_channels(
    w: np.ndarray,
    widths: Sequence[int],
    *,
    axis: int,
    estimator: str = "mse",
    power_of_two: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`quantize_weight` per channel, every channel at its own bits.

    ``estimator`` is that below 8 bits; at 8 bits the range is min-max.
    """
    q, scale = np.empty(w.shape, np.int8), np.empty(w.shape[axis], np.float32)
    moved = np.moveaxis(q, axis, 0)
    for bits in set(widths):
        chosen = np.flatnonzero(np.asarray(widths) == bits)
        part, scale[chosen] = quantize_weight(
            np.take(w, chosen, axis),
            bits=bits,
            axis=axis,
            estimator="minmax" if bits == 8 else estimator,
            power_of_two=power_of_two,
        )
        moved[chosen] = np.moveaxis(part, axis, 0)
    return q, scale


def _limits(row: np.ndarray, estimator: str, bits: int) -> tuple[float, float]:
    observer = make_estimator(estimator)
    if isinstance(observer, HistogramEstimator):
        # A channel has few weights: finer bins would hold one each and look like a plateau.
        observer.histogram = Histogram(_CHANNEL_BINS)
    observer.update(row.astype(np.float32))
    return observer.range(bits, True)


def _search(rows: np.ndarray, scale: np.ndarray, qmin: int, qmax: int) -> np.ndarray:
    """Per row the fraction of the min-max scale with the least squared error."""
    best_error = np.full(len(rows), np.inf)
    best = scale.copy()
    base = np.where(scale > 1e-30, scale, 1.0)
    for fraction in np.linspace(1.0, 0.2, 41):
        trial = base * fraction
        q = np.clip(np.rint(rows / trial[:, None]), qmin, qmax)
        error = ((q * trial[:, None] - rows) ** 2).sum(1)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best = np.where(better, trial, best)
    return best
