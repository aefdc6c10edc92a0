"""Ranges without data, from what batch norms know of every channel."""

from __future__ import annotations

import numpy as np

from tvmquant.calibration.mse import least_squared_error
from tvmquant.calibration.spread import WEIGHTS, Spread

_BINS = 4096


class BatchNormEstimator:
    """Range of a tensor whose channels are distributed as given.

    At 8 bits what any channel reaches within six standard deviations, cut off where the activation
    function cuts it off (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization
    and Bias Correction", section 5). Below, the range of least squared error over the mixture of
    all channels, as ACIQ's analytic clipping of one Gaussian.
    """

    def __init__(self) -> None:
        self._spreads: list[Spread] = []

    def add(self, spread: Spread) -> None:
        """Take another tensor into the range."""
        self._spreads.append(spread)

    def range(self, bits: int, symmetric: bool) -> tuple[float, float]:
        """Range ``(low, high)`` for a tensor of ``bits`` bits."""
        if not self._spreads:
            return 0.0, 0.0
        low = min(float(spread.points.min()) for spread in self._spreads)
        high = max(float(spread.points.max()) for spread in self._spreads)
        if bits >= 8 or not low < high:
            return low, high
        values = np.concatenate([spread.points.reshape(-1) for spread in self._spreads])
        shares = np.concatenate(
            [np.repeat(WEIGHTS / spread.channels, spread.channels) for spread in self._spreads]
        )
        counts, edges = np.histogram(values, _BINS, weights=shares)
        sums, _ = np.histogram(values, edges, weights=shares * values)
        used = counts > 0
        # The mean of a bin, so that a ReLU's zeros stay zero.
        return least_squared_error(
            sums[used] / counts[used], counts[used], low, high, bits, symmetric
        )
