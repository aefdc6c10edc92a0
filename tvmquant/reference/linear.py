"""Convolution and matrix multiplication on integers, int32 accumulation.

The zero-point correction of the activations is already folded into ``bias`` (see
``tvmquant.passes.realize``): ``y = requantize(sum(x * w) + bias)`` on raw stored values, and
padding inserts the activation's zero point. Accumulation wraps modulo 2**32 like the hardware.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tvmquant.reference.requantize import requantize
from tvmquant.reference.wrap import wrap_int32


def _exact_matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """int64 product of small integers through float64 BLAS: exact while sums stay below 2**53."""
    return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)


def conv2d(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray,
    params: tuple[np.ndarray, ...],
    *,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    x_zero_point: int = 0,
    requantize_flavour: str = "float",
    out_zero_point: int = 0,
    out_min: int = 0,
    out_max: int = 255,
) -> np.ndarray:
    """2-D convolution, channels-last.

    Parameters
    ----------
    x : np.ndarray
        uint8 ``[N, H, W, C]``.
    w : np.ndarray
        int8 ``[O, KH, KW, C // groups]``.
    bias : np.ndarray
        int32 ``[O]``, zero-point correction included.
    params : tuple of np.ndarray
        Requantize parameters, each ``[O]`` or ``[1]``.
    strides, dilation : sequence of 2 int
    padding : sequence of 4 int
        Top, left, bottom, right; filled with ``x_zero_point``.
    groups : int
    x_zero_point : int
    requantize_flavour, out_zero_point, out_min, out_max
        See :func:`tvmquant.reference.requantize.requantize`.

    Returns
    -------
    np.ndarray
        ``[N, OH, OW, O]``.
    """
    top, left, bottom, right = padding
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=x_zero_point)
    n, h, wd, _ = x.shape
    o, kh, kw, cg = w.shape
    sh, sw = strides
    dh, dw = dilation
    oh = (h - (kh - 1) * dh - 1) // sh + 1
    ow = (wd - (kw - 1) * dw - 1) // sw + 1
    og = o // groups
    acc = np.zeros((n, oh, ow, groups, og), np.int64)
    for i in range(kh):
        for j in range(kw):
            rows = slice(i * dh, i * dh + (oh - 1) * sh + 1, sh)
            cols = slice(j * dw, j * dw + (ow - 1) * sw + 1, sw)
            patch = x[:, rows, cols].reshape(n * oh * ow, groups, cg)
            taps = w[:, i, j].reshape(groups, og, cg)
            part = _exact_matmul(patch.transpose(1, 0, 2), taps.transpose(0, 2, 1))
            acc += part.transpose(1, 0, 2).reshape(acc.shape)
    acc = acc.reshape(n, oh, ow, o) + bias.astype(np.int64)
    return requantize(wrap_int32(acc), params, requantize_flavour, out_zero_point, out_min, out_max)


def matmul(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray,
    params: tuple[np.ndarray, ...],
    *,
    requantize_flavour: str = "float",
    out_zero_point: int = 0,
    out_min: int = 0,
    out_max: int = 255,
) -> np.ndarray:
    """Activations ``[..., K]`` (uint8) times constant weights ``[O, K]`` (int8) → ``[..., O]``.

    ``bias`` is int32 ``[O]`` with the zero-point correction folded in; the rest as in
    :func:`conv2d`.
    """
    acc = _exact_matmul(x, w.T) + bias.astype(np.int64)
    return requantize(wrap_int32(acc), params, requantize_flavour, out_zero_point, out_min, out_max)


def batch_matmul(
    a: np.ndarray,
    b: np.ndarray,
    params: tuple[np.ndarray, ...],
    *,
    a_zero_point: int = 0,
    b_zero_point: int = 0,
    requantize_flavour: str = "float",
    out_zero_point: int = 0,
    out_min: int = 0,
    out_max: int = 255,
) -> np.ndarray:
    """Two activations, uint8 ``[..., M, K]`` times uint8 ``[..., K, N]`` → ``[..., M, N]``.

    ``acc = sum((a - a_zero_point) * (b - b_zero_point))``; batch dimensions broadcast.
    """
    acc = _exact_matmul(a.astype(np.int64) - a_zero_point, b.astype(np.int64) - b_zero_point)
    return requantize(wrap_int32(acc), params, requantize_flavour, out_zero_point, out_min, out_max)
