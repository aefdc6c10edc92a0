"""Sums as 32-bit registers hold them."""

from __future__ import annotations

import numpy as np


def wrap_int32(values: np.ndarray) -> np.ndarray:
    """int64 values modulo 2**32, as int32."""
    return (values & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
