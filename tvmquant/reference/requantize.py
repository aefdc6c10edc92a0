"""From the int32 accumulator to the output's integers: the three flavours of the recipe.

``float``
    int32 → float32, one float32 multiply, rint (half to even). Nothing can contract into a
    fused multiply-add, so it is bit-exact on every device.
``fixed_point``
    Integer only: 31-bit multiplier and rounding shift, ``(acc * m + 2**(s-1)) >> s`` in 64 bits
    (Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", section 2.2, with a single rounding).
``power_of_two``
    Shift only, ``(acc + 2**(s-1)) >> s``: dynamic fixed point.
Besides, ``none`` returns the int32 accumulator and ``dequantize`` returns ``float32(acc) * m``.
"""

from __future__ import annotations

import numpy as np

FLAVOURS = ("float", "fixed_point", "power_of_two", "none", "dequantize")


def make_requantize_params(multiplier: np.ndarray, flavour: str) -> tuple[np.ndarray, ...]:
    """Turn real multipliers into the constant arrays that a flavour needs.

    Parameters
    ----------
    multiplier : np.ndarray
        Real multipliers ``s_x * s_w / s_y`` (for ``dequantize``: ``s_x * s_w``), positive,
        any float dtype, any shape (usually ``[channels]`` or ``[1]``).
    flavour : str
        One of :data:`FLAVOURS`.

    Returns
    -------
    tuple of np.ndarray
        ``(float32 m,)`` for ``float`` and ``dequantize``; ``(int32 m, int32 shift)`` for
        ``fixed_point`` with ``m`` in ``[2**30, 2**31)`` (0 with shift 1 for multiplier 0) and
        shift in ``1 … 62``; ``(int32 shift,)`` for ``power_of_two``, shift in ``-16 … 31``;
        ``()`` for ``none``.
    """
    m = np.asarray(multiplier, np.float64)
    if flavour in ("float", "dequantize"):
        return (m.astype(np.float32),)
    if flavour == "none":
        return ()
    if flavour == "fixed_point":
        mantissa, exponent = np.frexp(m)  # m = mantissa * 2**exponent, mantissa in [0.5, 1)
        fixed = np.rint(mantissa * 2.0**31).astype(np.int64)
        exponent = np.where(fixed == 2**31, exponent + 1, exponent)
        fixed = np.where(fixed == 2**31, 2**30, fixed)
        shift = 31 - exponent
        fixed = np.where(shift > 62, 0, fixed)  # smaller than any int32 can feel
        shift = np.where(fixed == 0, 1, np.clip(shift, 1, 62))
        return fixed.astype(np.int32), shift.astype(np.int32)
    if flavour == "power_of_two":
        safe = np.where(m > 0, m, 2.0**-31)
        return (np.clip(-np.rint(np.log2(safe)), -16, 31).astype(np.int32),)
    raise ValueError(f"unknown requantize flavour {flavour!r}; choose one of {FLAVOURS}")


def requantize(
    acc: np.ndarray,
    params: tuple[np.ndarray, ...],
    flavour: str,
    zero_point: int = 0,
    qmin: int = 0,
    qmax: int = 255,
) -> np.ndarray:
    """Requantize int32 accumulators.

    Parameters
    ----------
    acc : np.ndarray
        int32, any shape; the arrays of ``params`` broadcast against it (channel last).
    params : tuple of np.ndarray
        From :func:`make_requantize_params`.
    flavour : str
        One of :data:`FLAVOURS`.
    zero_point, qmin, qmax : int
        Output zero point and clamp, in the integer domain of the output.

    Returns
    -------
    np.ndarray
        uint8 for the three integer flavours, int32 for ``none``, float32 for ``dequantize``.
    """
    acc = np.asarray(acc)
    if acc.dtype != np.int32:
        raise TypeError(f"accumulator must be int32, got {acc.dtype}")
    if flavour == "none":
        return acc
    if flavour == "dequantize":
        return acc.astype(np.float32) * params[0]
    if flavour == "float":
        scaled = np.rint(acc.astype(np.float32) * params[0])
        # Clamped before the cast: a float beyond int32 has no defined integer.
        clamped = np.clip(scaled, np.float32(qmin - zero_point), np.float32(qmax - zero_point))
        return (clamped.astype(np.int32) + zero_point).astype(np.uint8)
    wide = acc.astype(np.int64)
    if flavour == "fixed_point":
        m, shift = (p.astype(np.int64) for p in params)
        wide = (wide * m + (np.int64(1) << (shift - 1))) >> shift
    elif flavour == "power_of_two":
        shift = params[0].astype(np.int64)
        right = np.maximum(shift, 1)
        rounded = (wide + (np.int64(1) << (right - 1))) >> right
        wide = np.where(shift > 0, rounded, wide << np.maximum(-shift, 0))
    else:
        raise ValueError(f"unknown requantize flavour {flavour!r}; choose one of {FLAVOURS}")
    return np.clip(wide + zero_point, qmin, qmax).astype(np.uint8)
