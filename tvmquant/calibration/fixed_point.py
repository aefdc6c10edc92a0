"""Fixed point: the fractional length of least error."""

from __future__ import annotations

import math

import numpy as np

from tvmquant.calibration.histogram import HistogramEstimator


class FixedPointEstimator(HistogramEstimator):
    """Range of the power-of-two scale with the least sum of absolute errors.

    Qiu et al. 2016, "Going Deeper with Embedded FPGA Platform for Convolutional Neural Network",
    section 5.1: the fractional length ``f`` that minimises ``Σ |x - q(x; f)|``; the scale is
    ``2**-f``. The lengths tried start where nothing is clipped.
    """

    LENGTHS = 8

    def range(self, bits: int, symmetric: bool) -> tuple[float, float]:
        """Range that ``2**bits`` levels of the best scale span."""
        h = self.histogram
        peak = max(abs(h.low), abs(h.high)) if h.counts.sum() else 0.0
        if peak == 0:
            return 0.0, 0.0
        used = h.counts > 0
        x, weight = h.centers[used], h.counts[used].astype(np.float64)
        signed = h.low < 0
        qmin, qmax = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        qmax = max(qmax, 1)
        coarsest = math.ceil(math.log2(peak / qmax))

        def error(exponent: int) -> float:
            scale = 2.0**exponent
            q = np.clip(np.rint(x / scale), qmin, qmax)
            return float((weight * np.abs(q * scale - x)).sum())

        exponents = range(coarsest - self.LENGTHS, coarsest + 1)
        scale = 2.0 ** min(reversed(exponents), key=error)
        return qmin * scale, qmax * scale
