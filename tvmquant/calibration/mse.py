"""The clipping range of least squared error."""

from __future__ import annotations

import numpy as np

from tvmquant.calibration.histogram import HistogramEstimator
from tvmquant.calibration.params import activation_params


class MseEstimator(HistogramEstimator):
    """Clipping range of least squared quantization error, by search over both ends.

    See Nagel et al. 2021, "A White Paper on Neural Network Quantization", eq. 13.
    """

    STEPS = 48

    def range(self, bits: int, symmetric: bool) -> tuple[float, float]:
        """Best ``(low, high)`` for ``bits`` among fractions of the observed range."""
        h = self.histogram
        if h.counts.sum() == 0:
            return 0.0, 0.0
        used = h.counts > 0
        x, weight = h.centers[used], h.counts[used].astype(np.float64)
        return least_squared_error(x, weight, h.low, h.high, bits, symmetric, self.STEPS)


def least_squared_error(
    x: np.ndarray,
    weight: np.ndarray,
    low: float,
    high: float,
    bits: int,
    symmetric: bool,
    steps: int = MseEstimator.STEPS,
) -> tuple[float, float]:
    """Range of least squared error for values ``x`` that occur ``weight`` times.

    ``low`` and ``high`` are the widest range that is tried; ``bits`` and ``symmetric`` are those
    of the tensor.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    fractions = np.arange(1, steps + 1) / steps

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
