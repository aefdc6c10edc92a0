"""Elementwise integer operators: table, addition, multiplication."""

from __future__ import annotations

import numpy as np

from tvmquant.reference.requantize import requantize


def lut(x: np.ndarray, table: np.ndarray, axis: int = -1) -> np.ndarray:
    """Look every value up in a table.

    Parameters
    ----------
    x : np.ndarray
        uint8, any shape.
    table : np.ndarray
        ``[256]``, or ``[C, 256]`` with one row per index of ``axis``; uint8 or float32.
    axis : int
        Channel axis of ``x`` for a two-dimensional table.

    Returns
    -------
    np.ndarray
        Shape of ``x``, dtype of ``table``.
    """
    if table.ndim == 1:
        return table[x]
    shape = [1] * x.ndim
    shape[axis] = x.shape[axis]
    return table[np.arange(x.shape[axis]).reshape(shape), x]


def add(
    a: np.ndarray,
    b: np.ndarray,
    params: tuple[np.ndarray, ...],
    *,
    a_zero_point: int = 0,
    b_zero_point: int = 0,
    a_multiplier: int = 1,
    b_multiplier: int = 1,
    requantize_flavour: str = "float",
    out_zero_point: int = 0,
    out_min: int = 0,
    out_max: int = 255,
) -> np.ndarray:
    """Sum of two activations with different scales (uint8, broadcasting).

    ``acc = (a - a_zero_point) * a_multiplier + (b - b_zero_point) * b_multiplier`` in int32
    (the integer multipliers stay within ±2**22, so it cannot overflow), then requantize with
    one scalar parameter. A negative multiplier subtracts.
    """
    acc = (a.astype(np.int32) - a_zero_point) * np.int32(a_multiplier)
    acc = acc + (b.astype(np.int32) - b_zero_point) * np.int32(b_multiplier)
    return requantize(acc, params, requantize_flavour, out_zero_point, out_min, out_max)


def multiply(
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
    """Product of two activations (uint8, broadcasting), requantized with one parameter."""
    acc = (a.astype(np.int32) - a_zero_point) * (b.astype(np.int32) - b_zero_point)
    return requantize(acc, params, requantize_flavour, out_zero_point, out_min, out_max)
