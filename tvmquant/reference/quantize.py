"""Quantize, dequantize and sub-byte packing.

``x ≈ scale * (q - zero_point)``, ``q = clamp(rint(x / scale) + zero_point, qmin, qmax)``.
"""

from __future__ import annotations

import numpy as np


def _per_axis(
    param: np.ndarray, ndim: int, axis: int | None, block_size: int, size: int
) -> np.ndarray:
    """Shape a scale or zero point so that it broadcasts against the tensor."""
    param = np.asarray(param)
    if param.ndim == 0 or param.size == 1:
        return param.reshape(())
    axis = (axis or 0) % ndim
    if param.ndim == 1:
        shape = [1] * ndim
        shape[axis] = param.size
        return param.reshape(shape)
    if block_size:
        return np.repeat(param, block_size, axis)[(slice(None),) * axis + (slice(0, size),)]
    return param


def quantize(
    x: np.ndarray,
    scale: np.ndarray,
    zero_point: np.ndarray,
    *,
    qmin: int,
    qmax: int,
    dtype: np.dtype | str,
    axis: int | None = None,
    block_size: int = 0,
) -> np.ndarray:
    """Quantize float32 to integers in ``[qmin, qmax]`` stored as ``dtype``.

    ``scale`` and ``zero_point`` are scalars, ``[C]`` along ``axis``, or, blocked, of the rank of
    ``x`` with ``ceil(size / block_size)`` entries along ``axis``. The division is a float32
    division and the rounding half to even, as in ONNX.
    """
    x = np.asarray(x, np.float32)
    size = x.shape[axis] if axis is not None and x.ndim else 0
    s = _per_axis(np.asarray(scale, np.float32), x.ndim, axis, block_size, size)
    z = _per_axis(np.asarray(zero_point, np.int32), x.ndim, axis, block_size, size)
    scaled = np.rint(x / s)
    low = (qmin - z).astype(np.float32)
    high = (qmax - z).astype(np.float32)
    return (np.clip(scaled, low, high).astype(np.int32) + z).astype(dtype)


def dequantize(
    q: np.ndarray,
    scale: np.ndarray,
    zero_point: np.ndarray,
    *,
    axis: int | None = None,
    block_size: int = 0,
) -> np.ndarray:
    """Dequantize: ``float32(int32(q) - zero_point) * scale``; shapes as in :func:`quantize`."""
    q = np.asarray(q)
    size = q.shape[axis] if axis is not None and q.ndim else 0
    s = _per_axis(np.asarray(scale, np.float32), q.ndim, axis, block_size, size)
    z = _per_axis(np.asarray(zero_point, np.int32), q.ndim, axis, block_size, size)
    return (q.astype(np.int32) - z).astype(np.float32) * s


def pack_bits(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack unsigned codes below ``2**bits`` along the last axis into uint8, first code lowest.

    The last axis is padded with zeros to a multiple of ``8 // bits``.
    """
    per = 8 // bits
    pad = -codes.shape[-1] % per
    codes = np.pad(codes.astype(np.uint8), [(0, 0)] * (codes.ndim - 1) + [(0, pad)])
    parts = codes.reshape(*codes.shape[:-1], -1, per)
    shifts = (np.arange(per) * bits).astype(np.uint8)
    return np.bitwise_or.reduce(parts << shifts, axis=-1).astype(np.uint8)


def unpack_bits(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Inverse of :func:`pack_bits`: ``count`` unsigned codes along the last axis."""
    per = 8 // bits
    shifts = (np.arange(per) * bits).astype(np.uint8)
    codes = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return codes.reshape(*packed.shape[:-1], -1)[..., :count]
