"""Second moments of a layer: all that a squared error of its output depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from tvm import relax

from tvmquant.calibration.histogram import OUTLIER_RATIO, bulk
from tvmquant.graph import name_of
from tvmquant.interpreter.lockstep import LinearLayer
from tvmquant.ops.integer import ints

# Output positions that are sampled of a layer (more hardly change its moments), and the numbers
# that they may read together.
POSITIONS = 32768
VALUES = 1 << 25
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


def weight_rows(layer: LinearLayer, weights: np.ndarray) -> np.ndarray:
    """Weights as ``[groups, channels of a group, K]``, in the order of :func:`columns`."""
    if not layer.is_conv:
        return np.ascontiguousarray(weights.T)[None]
    groups = int(layer.call.attrs["groups"])
    return weights.reshape(groups, weights.shape[0] // groups, -1)


def weights_of_rows(layer: LinearLayer, rows: np.ndarray) -> np.ndarray:
    """The inverse of :func:`weight_rows`."""
    if not layer.is_conv:
        return np.ascontiguousarray(rows[0].T)
    return rows.reshape(layer.q.shape)


def columns(x: np.ndarray, call: relax.Call) -> np.ndarray:
    """What every output position reads, ``[groups, positions, K]``."""
    if name_of(call) != "nn.conv2d":
        return x.reshape(1, -1, x.shape[-1])
    attrs = call.attrs
    (sh, sw), (dh, dw) = ints(attrs["strides"]), ints(attrs["dilation"])
    top, left, bottom, right = ints(attrs["padding"])
    groups = int(attrs["groups"])
    _, kh, kw, cg = (int(d) for d in call.args[1].ty.shape.values)
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    span = ((kh - 1) * dh + 1, (kw - 1) * dw + 1)
    windows = np.lib.stride_tricks.sliding_window_view(x, span, (1, 2))
    windows = windows[:, ::sh, ::sw, :, ::dh, ::dw]
    n, oh, ow = windows.shape[:3]
    parts = windows.reshape(n, oh, ow, groups, cg, kh, kw)
    return parts.transpose(3, 0, 1, 2, 5, 6, 4).reshape(groups, n * oh * ow, -1)


def moments(layer: LinearLayer, positions: int = POSITIONS, seed: int = 0) -> Moments:
    """Moments over at most about ``positions`` output positions, chosen at random."""
    rng = np.random.default_rng(seed)
    depth = layer.q.size // layer.q.shape[layer.axis]
    positions = min(positions, max(VALUES // depth, 2 * depth))
    count = max(1, positions // len(layer.x_quant))
    xs, ys = [], []
    for x, y in zip(layer.x_quant, layer.y_float):
        part = columns(x, layer.call)
        chosen = _choice(rng, part.shape[1], count)
        xs.append(part[:, chosen])
        ys.append(y.reshape(-1, y.shape[-1])[chosen])
    return _centred(xs, ys)


def _choice(rng: np.random.Generator, total: int, count: int) -> np.ndarray | slice:
    return slice(None) if total <= count else np.sort(rng.choice(total, count, replace=False))


def _usable(x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """Which positions can be squared and are no outliers, ``[positions]``; ``None`` for all.

    One broken sample would outweigh all others in a squared error. Where nothing is usable, one
    position of zeros stands for the data.
    """
    peak = np.abs(y).max(1)
    # NaN is not below anything.
    sane = peak < _LARGEST
    if not (x.max() < _LARGEST and x.min() > -_LARGEST):
        sane &= (np.abs(x) < _LARGEST).all((0, 2))
    largest = bulk(peak[sane])
    usable = sane & (peak <= OUTLIER_RATIO * largest) if largest > 0 else sane
    if usable.all():
        return None
    if not usable.any():
        x[:, 0], y[0] = 0, 0
        usable[0] = True
    return usable


def _centred(xs: Sequence[np.ndarray], ys: Sequence[np.ndarray]) -> Moments:
    x = np.concatenate(xs, 1)
    y = np.concatenate(ys)
    usable = _usable(x, y)
    if usable is not None:
        x, y = x[:, usable], y[usable]
    groups, total = x.shape[:2]
    y = y.reshape(total, groups, -1).transpose(1, 0, 2)
    x_mean, y_mean = x.mean(1, dtype=np.float64), y.mean(1, dtype=np.float64)
    # float32 products of centred values: precise enough, and twice as fast.
    x = x - x_mean[:, None].astype(np.float32)
    y = y - y_mean[:, None].astype(np.float32)
    xx = (x.transpose(0, 2, 1) @ x).astype(np.float64) / total
    yx = (y.transpose(0, 2, 1) @ x).astype(np.float64) / total
    return Moments(xx, yx, (y.astype(np.float64) ** 2).mean(1), x_mean, y_mean, total)
