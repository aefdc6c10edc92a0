"""Ranges of a layer's channels: those of its results over samples, and of its weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


class ChannelRanges:
    """Least and greatest value of every channel (the last axis) of a tensor."""

    def __init__(self) -> None:
        self.low: np.ndarray | None = None
        self.high: np.ndarray | None = None
        self.samples = self.broken_samples = 0

    def update(self, values: np.ndarray) -> None:
        """Add one sample; values that are not finite are left out and the sample is counted."""
        self.samples += 1
        rows = values.reshape(-1, values.shape[-1]) if values.ndim else values.reshape(1, 1)
        if not np.isfinite(rows).all():
            self.broken_samples += 1
            rows = np.nan_to_num(rows, posinf=0, neginf=0)
        low, high = rows.min(0), rows.max(0)
        self.low = low if self.low is None else np.minimum(self.low, low)
        self.high = high if self.high is None else np.maximum(self.high, high)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return 0 if self.low is None else len(self.low)

    @property
    def dead(self) -> int:
        """Channels that are always zero."""
        return self._count(lambda low, high: (low == high) & (low == 0))

    @property
    def constant(self) -> int:
        """Channels that never vary, but are not zero."""
        return self._count(lambda low, high: (low == high) & (low != 0))

    @property
    def spread(self) -> float:
        """Largest magnitude of a channel over the median of the channels that are not dead."""
        return 1.0 if self.low is None else spread(self.low, self.high)

    def _count(self, test) -> int:  # noqa: ANN001
        return 0 if self.low is None or self.samples < 2 else int(test(self.low, self.high).sum())


@dataclass(frozen=True)
class WeightRanges:
    """Ranges of the weights of every output channel.

    Attributes
    ----------
    low, high, limits : np.ndarray
        Least and greatest weight, and the largest magnitude that the integers can represent.
    """

    low: np.ndarray
    high: np.ndarray
    limits: np.ndarray

    @classmethod
    def of(cls, weight: np.ndarray, quantized: np.ndarray, axis: int) -> WeightRanges:
        """Of float weights and their quantized values, output channels at ``axis``."""
        rows, own = (
            np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1) for w in (weight, quantized)
        )
        return cls(rows.min(1), rows.max(1), np.abs(own).max(1))

    @property
    def spread(self) -> float:
        """Largest magnitude of a channel over the median of the channels that are not dead."""
        return spread(self.low, self.high)


def spread(low: np.ndarray, high: np.ndarray) -> float:
    """Largest magnitude over the median of those that are not zero."""
    peaks = np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
    peaks = peaks[peaks > 0]
    return float(peaks.max() / np.median(peaks)) if peaks.size else 1.0
