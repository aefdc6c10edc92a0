"""Second moments of a layer: all that a squared error of its output depends on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tvmquant.calibration.columns import ALL, columns
from tvmquant.calibration.histogram import OUTLIER_RATIO, bulk
from tvmquant.interpreter.lockstep import LinearLayer

# Output positions that are sampled of a layer (more hardly change its moments), and the numbers
# that they may read together.
POSITIONS = 32768
VALUES = 1 << 25
# Values of groups that are worked on together.
_TOGETHER = 1 << 22
# Beyond it, sums of squares leave float32.
_LARGEST = 1e15


@dataclass(frozen=True)
class Moments:
    """Centred moments of a layer's quantized input ``x`` and its float output ``y``.

    With weights ``w`` and the best constant added to the output, the mean squared error of the
    layer is ``w·xx·wᵀ - 2·w·yxᵀ + yy``, summed over the channels.

    Attributes
    ----------
    xx : np.ndarray
        float64 ``[groups, K, K]``.
    yx : np.ndarray
        float64 ``[groups, channels of a group, K]``.
    yy : np.ndarray
        Variance of every output, float64 ``[groups, channels of a group]``.
    x_mean, y_mean : np.ndarray
        float64 ``[groups, K]`` and ``[groups, channels of a group]``.
    count : int
        Positions that they were taken over; 0 if unknown.
    """

    xx: np.ndarray
    yx: np.ndarray
    yy: np.ndarray
    x_mean: np.ndarray
    y_mean: np.ndarray
    count: int = 0

    def error(self, rows: np.ndarray) -> np.ndarray:
        """Mean squared error with these weights, ``[groups, channels of a group]``."""
        quadratic = ((rows @ self.xx) * rows).sum(-1)
        return np.maximum(quadratic - 2 * (rows * self.yx).sum(-1) + self.yy, 0)

    def shrunk(self, rows: np.ndarray) -> Moments:
        """Moments as far as they can be trusted.

        Of few positions the correlations between inputs are mostly chance. They count by
        ``count / (count + K)``; for the rest, inputs are taken as independent and the layer as
        exact (``y = x · rows``).
        """
        if not self.count:
            return self
        depth = rows.shape[-1]
        trust = self.count / (self.count + depth)
        power = np.einsum("gkk->gk", self.xx)
        xx = trust * self.xx
        np.einsum("gkk->gk", xx)[:] = power
        met = (1 - trust) * power[:, None]
        yx = trust * self.yx + met * rows
        yy = trust * self.yy + (met * rows**2).sum(-1)
        return replace(self, xx=xx, yx=yx, yy=yy)

    def with_target_of(self, rows: np.ndarray) -> Moments:
        """Moments with ``y = x · rows``: what the layer's input lost is not to be made good."""
        yx = rows @ self.xx
        y_mean = (rows * self.x_mean[:, None]).sum(-1)
        return replace(self, yx=yx, yy=(yx * rows).sum(-1), y_mean=y_mean)

    def shift(self, rows: np.ndarray) -> np.ndarray:
        """What is to be added to every output channel on average, ``[channels]``."""
        return (self.y_mean - (rows * self.x_mean[:, None]).sum(-1)).reshape(-1)


def moments(layer: LinearLayer, positions: int = POSITIONS, seed: int = 0) -> Moments:
    """Moments over at most about ``positions`` output positions, chosen at random."""
    rng = np.random.default_rng(seed)
    depth = layer.q.size // layer.q.shape[layer.axis]
    positions = min(positions, max(VALUES // depth, 2 * depth))
    count = max(1, positions // len(layer.x_quant))
    outputs = [y.reshape(-1, y.shape[-1]) for y in layer.y_float]
    chosen = [_choice(rng, len(y), count) for y in outputs]
    y = np.concatenate([part[numbers] for part, numbers in zip(outputs, chosen)])
    groups = int(layer.call.attrs["groups"]) if layer.is_conv else 1
    # All columns of a depthwise layer would be hundreds of megabytes.
    step = max(1, _TOGETHER // (len(y) * depth))
    parts = [slice(first, min(first + step, groups)) for first in range(0, groups, step)]

    def read(part: slice) -> np.ndarray:
        samples = zip(layer.x_quant, chosen)
        return np.concatenate([columns(x, layer.call, n, part) for x, n in samples], 1)

    usable: np.ndarray | slice = _usable(layer.x_quant, y, map(read, parts))
    nothing = not usable.any()
    if nothing:
        # One position of zeros stands for the data.
        usable, y = slice(1), np.zeros_like(y)
    elif usable.all():
        usable = ALL
    y = y[usable]
    y = y.reshape(len(y), groups, -1).transpose(1, 0, 2)
    found = []
    for part in parts:
        x = read(part)[:, usable]
        found.append(_centred(np.zeros_like(x) if nothing else x, y[part]))
    return Moments(*map(np.concatenate, zip(*found)), count=y.shape[1])


def _choice(rng: np.random.Generator, total: int, count: int) -> np.ndarray | slice:
    return slice(None) if total <= count else np.sort(rng.choice(total, count, replace=False))


def _usable(inputs: Sequence[np.ndarray], y: np.ndarray, parts: Iterable[np.ndarray]) -> np.ndarray:
    """Which positions can be squared and are no outliers, ``[positions]``.

    One broken sample would outweigh all others in a squared error. ``parts`` are the columns, in
    several arrays.
    """
    peak = np.abs(y).max(1)
    # NaN is not below anything.
    sane = peak < _LARGEST
    if not all(x.max() < _LARGEST and x.min() > -_LARGEST for x in inputs):
        for part in parts:
            sane &= (np.abs(part) < _LARGEST).all((0, 2))
    largest = bulk(peak[sane])
    return sane & (peak <= OUTLIER_RATIO * largest) if largest > 0 else sane


def _centred(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Moments of some groups, ``[groups, positions, …]``, as :class:`Moments` has them."""
    total = x.shape[1]
    x_mean, y_mean = x.mean(1, dtype=np.float64), y.mean(1, dtype=np.float64)
    # float32 products of centred values: precise enough, and twice as fast.
    x = x - x_mean[:, None].astype(np.float32)
    y = y - y_mean[:, None].astype(np.float32)
    xx = (x.transpose(0, 2, 1) @ x).astype(np.float64) / total
    yx = (y.transpose(0, 2, 1) @ x).astype(np.float64) / total
    return xx, yx, (y.astype(np.float64) ** 2).mean(1), x_mean, y_mean
