"""Sub-byte weights as the file holds them."""

from __future__ import annotations

import numpy as np

LANES = 16


def pack_codes(values: np.ndarray, bits: int) -> np.ndarray:
    """Flat int8 values of ``bits`` bits → uint8 codes.

    The values are cut into ``8 // bits`` pieces of equal length, a multiple of 16; byte ``i``
    holds value ``i`` of every piece, the first one's in the lowest bits.
    """
    per = 8 // bits
    codes = (values < 0) if bits == 1 else values.astype(np.int16) & ((1 << bits) - 1)
    size = packed_size(len(values), bits)
    codes = np.pad(codes.astype(np.uint8), (0, per * size - len(values))).reshape(per, size)
    shifts = (bits * np.arange(per)).astype(np.uint8)[:, None]
    return np.bitwise_or.reduce(codes << shifts, axis=0)


def packed_size(count: int, bits: int) -> int:
    """Bytes of ``count`` packed values."""
    return -(-count // (8 // bits * LANES)) * LANES
