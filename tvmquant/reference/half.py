"""Weights stored as float16."""

from __future__ import annotations

import numpy as np

# The largest finite float16.
LARGEST_HALF = 65504.0


def float_to_half(x: np.ndarray) -> np.ndarray | None:
    """Bits (uint16) of float32 values rounded to float16, half to even.

    ``None`` if a value is not finite, or too large: float16 ends at 65504.
    """
    with np.errstate(over="ignore"):
        half = np.asarray(x, np.float32).astype(np.float16)
    return half.view(np.uint16) if np.all(np.isfinite(half)) else None


def half_to_float(bits: np.ndarray) -> np.ndarray:
    """float32 of the float16 whose bits (uint16) are given; exact, also below the normal range."""
    return bits.view(np.float16).astype(np.float32)
