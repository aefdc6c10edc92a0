"""Pooling and means over uint8 feature maps (channels-last)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tvmquant.reference.requantize import requantize


def pool_geometry(
    size: int, kernel: int, stride: int, before: int, after: int, dilation: int, ceil_mode: bool
) -> int:
    """Output length of a pooled axis; with ``ceil_mode`` the last window starts inside it."""
    span = size + before + after - (kernel - 1) * dilation - 1
    out = -(-span // stride) + 1 if ceil_mode else span // stride + 1
    if ceil_mode and (out - 1) * stride >= size + before:
        out -= 1
    return out


def _windows(
    x: np.ndarray,
    pool_size: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    fill: int,
) -> np.ndarray:
    """Gather windows: int32 ``[KH * KW, N, OH, OW, C]``, cells outside the map hold ``fill``."""
    n, h, w, c = x.shape
    top, left, bottom, right = padding
    oh = pool_geometry(h, pool_size[0], strides[0], top, bottom, dilation[0], ceil_mode)
    ow = pool_geometry(w, pool_size[1], strides[1], left, right, dilation[1], ceil_mode)
    need_h = (oh - 1) * strides[0] + (pool_size[0] - 1) * dilation[0] + 1
    need_w = (ow - 1) * strides[1] + (pool_size[1] - 1) * dilation[1] + 1
    padded = np.full((n, max(need_h, h + top), max(need_w, w + left), c), fill, np.int32)
    padded[:, top : top + h, left : left + w] = x
    out = []
    for i in range(pool_size[0]):
        for j in range(pool_size[1]):
            i0, j0 = i * dilation[0], j * dilation[1]
            rows = slice(i0, i0 + (oh - 1) * strides[0] + 1, strides[0])
            cols = slice(j0, j0 + (ow - 1) * strides[1] + 1, strides[1])
            out.append(padded[:, rows, cols])
    return np.stack(out)


def max_pool2d(
    x: np.ndarray,
    *,
    pool_size: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> np.ndarray:
    """Max pooling of uint8 ``[N, H, W, C]``; padded cells never win. Scale is unchanged."""
    # Stored values are never negative: 0 is a neutral element of max.
    return _windows(x, pool_size, strides, padding, dilation, ceil_mode, 0).max(0).astype(np.uint8)


def avg_pool2d(
    x: np.ndarray,
    params: tuple[np.ndarray, ...],
    *,
    pool_size: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
    x_zero_point: int = 0,
    requantize_flavour: str = "float",
    out_zero_point: int = 0,
    out_min: int = 0,
    out_max: int = 255,
) -> np.ndarray:
    """Average pooling of uint8 ``[N, H, W, C]``.

    ``acc = sum over the window of (x - x_zero_point)``, cells outside the map count zero. The
    arrays of ``params`` are ``[OH, OW, 1]``: the divisor of each window (its whole size, or its
    number of cells inside the map) is folded into them by ``realize``.
    """
    windows = _windows(x, pool_size, strides, padding, dilation, ceil_mode, x_zero_point)
    acc = (windows - np.int32(x_zero_point)).sum(0, dtype=np.int32)
    return requantize(acc, params, requantize_flavour, out_zero_point, out_min, out_max)


def mean(
    x: np.ndarray,
    params: tuple[np.ndarray, ...],
    *,
    axis: Sequence[int],
    keepdims: bool,
    x_zero_point: int = 0,
    requantize_flavour: str = "float",
    out_zero_point: int = 0,
    out_min: int = 0,
    out_max: int = 255,
) -> np.ndarray:
    """Mean over ``axis``: ``acc = sum(x - x_zero_point)``, 1/count folded into ``params``."""
    acc = x.astype(np.int32).sum(tuple(axis), dtype=np.int32, keepdims=keepdims)
    count = int(np.prod([x.shape[a] for a in axis]))
    acc = acc - np.int32(count * x_zero_point)
    return requantize(acc, params, requantize_flavour, out_zero_point, out_min, out_max)
