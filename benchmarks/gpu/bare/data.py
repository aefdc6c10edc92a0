"""Numbers that both machines make from a seed, and digests to compare large outputs by.

Only raw words of PCG64 are used: NumPy promises that these stay the same in every version.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np

# Weights repeat every so many channels and inputs, so that packed weights compress well. Rows of
# activations never repeat, and bias and scale differ in every channel.
PERIOD = 64
ROWS = 48


def raw_bytes(seed: int, count: int) -> np.ndarray:
    """Uniform bytes."""
    words = np.random.PCG64(seed).random_raw(-(-count // 8))
    return np.asarray(words, "<u8").view(np.uint8)[:count]


def activations(seed: int, shape: Sequence[int], bits: int) -> np.ndarray:
    """uint8 in ``0 .. 2**bits - 1``; float32 in about -1 .. 1 for 16 and 32 bits."""
    count = math.prod(shape)
    if bits > 8:
        # Sums of three bytes: bell-shaped enough, and exact in half precision.
        total = sum(raw_bytes(seed + i, count).astype(np.int32) for i in range(3)) - 382
        return (total.astype(np.float32) / 256).reshape(shape)
    return (raw_bytes(seed, count) >> (8 - bits)).reshape(shape)


def weights(seed: int, shape: Sequence[int], bits: int) -> np.ndarray:
    """int8 ``[O, ..., I]`` of ``bits`` bits (-1 and 1 for one), repeating, see :data:`PERIOD`."""
    outputs, *taps, inputs = shape
    few = (min(outputs, PERIOD), *taps, min(inputs, PERIOD))
    raw = raw_bytes(seed, math.prod(few)).view(np.int8).reshape(few)
    if bits == 1:
        base = np.where(raw < 0, -1, 1).astype(np.int8)
    else:
        # The lowest value only exists as a code: quantizers keep weights symmetric.
        base = np.maximum(raw >> (8 - bits), 1 - (1 << (bits - 1))).astype(np.int8)
    rows = np.arange(outputs) % few[0]
    columns = np.arange(inputs) % few[-1]
    return np.ascontiguousarray(base[rows][..., columns])


def some_rows(seed: int, rows: int) -> np.ndarray:
    """Indices of rows to compare: the first ones, the last ones and others, sorted."""
    if rows <= ROWS:
        return np.arange(rows)
    edge = ROWS // 4
    others = raw_bytes(seed, ROWS * 4).view("<u4").astype(np.int64) % rows
    return np.unique(np.concatenate([np.arange(edge), np.arange(rows - edge, rows), others]))


def row_digests(rows: np.ndarray) -> list[str]:
    """A digest of every row of an array ``[rows, channels]``."""
    whole = np.ascontiguousarray(rows)
    return [hashlib.blake2b(row.tobytes(), digest_size=8).hexdigest() for row in whole]
