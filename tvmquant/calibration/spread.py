"""What is known of a tensor without data: how every channel of it is distributed.

A :class:`Spread` holds the values of each channel at fixed points of a standard normal variable, so
every function of one tensor is exact up to the fineness of the points: a ReLU clips them, a
HardSwish bends them. Two tensors are taken to be independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

# How many standard deviations a channel reaches (Nagel et al. 2019, "Data-Free Quantization Through
# Weight Equalization and Bias Correction", section 5: 6 for activation ranges).
REACH = 6.0
POINTS = 257
# Points of each of two independent tensors that are combined with each other.
_COARSE = 8

Z = np.linspace(-REACH, REACH, POINTS)


def _normal_weights(z: np.ndarray) -> np.ndarray:
    density = np.exp(-(z**2) / 2)
    return density / density.sum()


WEIGHTS = _normal_weights(Z)
# Probability to the left of every point.
CUMULATIVE = np.array([0.5 * math.erfc(-z / math.sqrt(2)) for z in Z])
_FEW = _normal_weights(Z[::_COARSE])
_PAIRS = np.outer(_FEW, _FEW).reshape(-1)


@dataclass(frozen=True)
class Spread:
    """Distribution of every channel of a tensor.

    Attributes
    ----------
    points : np.ndarray
        float64 ``[POINTS, channels]``: values where a standard normal variable is ``Z``; one
        channel stands for all where they are not told apart.
    root : object
        Spreads of one root are functions of the same variable, others are independent.
    """

    points: np.ndarray
    root: object = field(default_factory=object)

    @classmethod
    def normal(
        cls,
        mean: np.ndarray | float,
        std: np.ndarray | float,
        low: np.ndarray | float = -np.inf,
        high: np.ndarray | float = np.inf,
    ) -> Spread:
        """Normal channels ``[C]``, cut off at ``low`` and ``high``."""
        values = np.atleast_1d(mean) + Z[:, None] * np.atleast_1d(std)
        return cls(np.clip(values, low, high))

    @property
    def channels(self) -> int:
        """Number of channels, 1 when they are not told apart."""
        return self.points.shape[1]

    @property
    def mean(self) -> np.ndarray:
        """Expected value of every channel."""
        return WEIGHTS @ self.points

    @property
    def variance(self) -> np.ndarray:
        """Variance of every channel."""
        return np.maximum(WEIGHTS @ (self.points - self.mean) ** 2, 0)

    def take(self, channels: np.ndarray) -> Spread:
        """The spread of a tensor that has these of the channels, in this order."""
        if self.channels == 1:
            return Spread(self.points)
        return Spread(self.points[:, channels])

    def pooled(self, weights: np.ndarray | None = None) -> Spread:
        """All channels thrown together, as one."""
        if self.channels == 1:
            return Spread(self.points)
        shares = np.ones(self.channels) if weights is None else weights
        values = np.outer(WEIGHTS, shares / shares.sum()).reshape(-1)
        return Spread(_quantiles(self.points.reshape(-1, 1), values))

    def sample(self, shape: Sequence[int], z: np.ndarray) -> np.ndarray:
        """Values of a tensor of this shape, where the normal variable is ``z`` (same shape)."""
        index = np.clip(np.rint((z + REACH) / (Z[1] - Z[0])), 0, POINTS - 1).astype(np.intp)
        if self.channels == 1:
            return self.points[index, 0]
        return self.points[index, np.arange(shape[-1])]


def from_samples(values: np.ndarray) -> Spread:
    """Spread of observed values, ``[samples, channels]``."""
    share = np.full(len(values), 1 / len(values))
    return Spread(_quantiles(values.astype(np.float64), share))


def combine(
    function: Callable[[np.ndarray, np.ndarray], np.ndarray], a: Spread, b: Spread
) -> Spread:
    """Spread of an elementwise function of two independent tensors."""
    left, right = a.points[::_COARSE], b.points[::_COARSE]
    channels = max(a.channels, b.channels)
    shape = (len(left), len(right), channels)
    values = function(
        np.broadcast_to(left[:, None], shape), np.broadcast_to(right[None], shape)
    ).reshape(-1, channels)
    return Spread(_quantiles(values, _PAIRS))


def _quantiles(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted values ``[N, C]`` at the probabilities of ``Z``; ``weights`` is ``[N]``."""
    out = np.empty((POINTS, values.shape[1]))
    order = np.argsort(values, 0)
    for channel in range(values.shape[1]):
        ranks = order[:, channel]
        share = weights[ranks]
        middle = np.cumsum(share) - share / 2
        out[:, channel] = np.interp(CUMULATIVE, middle, values[ranks, channel])
    return out
