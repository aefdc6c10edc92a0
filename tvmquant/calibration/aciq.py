"""Analytic clipping: the best threshold of a Gaussian or Laplace distribution in closed form."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from tvmquant.calibration.histogram import Histogram, HistogramEstimator


class AciqEstimator(HistogramEstimator):
    """Clip where the expected squared error of the fitted distribution is least.

    Banner et al. 2019, "Post training 4-bit quantization of convolutional networks for
    rapid-deployment", section 3: the distribution that fits better (by likelihood) of Gaussian and
    Laplace, in their form for one-sided values behind a fused ReLU where there are no negative
    ones.
    """

    def range(self, bits: int, symmetric: bool) -> tuple[float, float]:
        """Range around the mean (from zero for one-sided values), never wider than seen."""
        h = self.histogram
        if h.counts.sum() == 0:
            return 0.0, 0.0
        if h.low >= 0 or h.high <= 0:
            limit = one_sided_threshold(*_moments(h, half=True), bits)
            return max(h.low, -limit), min(h.high, limit)
        mean, deviation, spread = _moments(h)
        if symmetric:
            mean = 0.0
        limit = threshold(mean, deviation, spread, bits)
        return max(h.low, mean - limit), min(h.high, mean + limit)


def _moments(h: Histogram, half: bool = False) -> tuple[float, float, float]:
    """Mean, standard deviation and mean absolute deviation of the histogram.

    ``half``: of magnitudes around zero, without the zeros that a ReLU makes.
    """
    x, counts = h.centers, h.counts.astype(np.float64)
    if half:
        counts[np.abs(x) < h.width] = 0
    total = max(counts.sum(), 1.0)
    mean = 0.0 if half else float((counts * x).sum() / total)
    centred = x - mean
    deviation = math.sqrt((counts * centred**2).sum() / total)
    return mean, deviation, float((counts * np.abs(centred)).sum() / total)


def threshold(mean: float, deviation: float, spread: float, bits: int) -> float:
    """Half width of the range of a signed tensor.

    Parameters
    ----------
    mean, deviation, spread : float
        Mean, standard deviation and mean absolute deviation (Laplace's ``b``).
    bits : int
    """
    if is_gaussian(deviation, spread):
        return gaussian_factor(bits) * deviation
    return laplace_factor(bits) * spread


def one_sided_threshold(mean: float, deviation: float, spread: float, bits: int) -> float:
    """Upper end of the range behind a ReLU; parameters as in :func:`threshold`."""
    # Half the width for the same number of levels is what one more bit would give.
    if is_gaussian(deviation, spread):
        return gaussian_factor(bits + 1) * deviation
    return laplace_factor(bits + 1) * spread


def is_gaussian(deviation: float, spread: float) -> bool:
    """Whether a Gaussian is the likelier source than a Laplace distribution."""
    if deviation <= 0 or spread <= 0:
        return True
    gaussian = -0.5 * math.log(2 * math.pi * deviation**2) - 0.5
    return gaussian >= -math.log(2 * spread) - 1


@cache
def laplace_factor(bits: int) -> float:
    """Threshold over ``b``: the root of ``x·eˣ = 3·4^bits`` (the paper's eq. 7, by Newton)."""
    target = 3.0 * 4.0**bits
    x = math.log(target)
    for _ in range(50):
        x -= (x * math.exp(x) - target) / (math.exp(x) * (x + 1))
    return x


@cache
def gaussian_factor(bits: int) -> float:
    """Threshold over the standard deviation, where the derivative of the error vanishes.

    The expected error is ``2·∫ₐ^∞ (x - a)²·φ(x) dx + a²/(3·4^bits)`` (the paper's eq. 11 without
    its common factors); its derivative rises with ``a``, so bisection finds the root.
    """

    def slope(a: float) -> float:
        tail = 0.5 * math.erfc(a / math.sqrt(2))
        density = math.exp(-a * a / 2) / math.sqrt(2 * math.pi)
        return -4 * (density - a * tail) + 2 * a / (3 * 4.0**bits)

    low, high = 0.0, 20.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return (low + high) / 2
