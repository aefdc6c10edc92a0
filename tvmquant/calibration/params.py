"""From a range to scale and zero point."""

from __future__ import annotations

import numpy as np

_LARGEST = 2.0**120


def activation_params(
    low: float, high: float, bits: int, symmetric: bool = False, power_of_two: bool = False
) -> tuple[np.float32, int]:
    """Scale (float32) and zero point of an activation stored as ``0 … 2**bits - 1``.

    The range is widened to contain zero, which is represented exactly (padding needs it).
    ``symmetric`` centres signed ranges on ``2**(bits - 1)``; ranges without negative values then
    have zero point 0. ``power_of_two`` rounds the scale up to a power of two.
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    levels = 2**bits - 1
    if symmetric and low < 0 and bits > 1:
        half = 2 ** (bits - 1)
        scale, zero = max(-low / half, high / (half - 1)), half
    else:
        scale = (high - low) / levels
        zero = None
    # Scales below the normal floats would make x / scale overflow, those above are infinite.
    scale = min(scale, _LARGEST) if scale > 1e-30 else 1.0
    if power_of_two:
        scale = 2.0 ** np.ceil(np.log2(scale))
    scale = np.float32(scale)
    if zero is None:
        zero = int(np.clip(np.rint(-low / np.float64(scale)), 0, levels))
    return scale, zero
