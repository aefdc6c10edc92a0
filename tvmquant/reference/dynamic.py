"""Dynamic quantization: the scale of an activation comes from its own values at run time."""

from __future__ import annotations

import numpy as np

from tvmquant.reference.wrap import wrap_int32

# The smallest normal float32. A finer scale would not survive a product.
TINY = np.float32(2.0**-126)
_LARGEST = np.finfo(np.float32).max


def dynamic_quantize(
    x: np.ndarray, *, bits: int = 8, per_row: bool = False, symmetric: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quantize a tensor by its own range, which always includes zero.

    The formulas of ONNX ``DynamicQuantizeLinear``: ``scale = (high - low) / (2**bits - 1)``,
    ``zero_point = rint(-low / scale)``, in float32.

    Parameters
    ----------
    x : np.ndarray
        float32, any shape.
    bits : int
        Integers lie in ``0 … 2**bits - 1``.
    per_row : bool
        One scale for each row along the last axis, else one for the tensor.
    symmetric : bool
        Zero point in the middle, ``2**(bits - 1)``, and the scale such that the largest magnitude
        is ``2**(bits - 1) - 1`` of it.

    Returns
    -------
    q : np.ndarray
        uint8, shape of ``x``.
    scale, zero_point : np.ndarray
        float32 and uint8, ``[..., 1]`` with ``per_row``, else scalars. A range of (almost)
        nothing has scale 1 and zero point 0, a range beyond float32 the largest scale there is.
        Where ``x`` has NaN or an infinity the scale is NaN, and with it all that is computed from
        it; integers and zero point are then 0.
    """
    x = np.asarray(x, np.float32)
    axes = (-1,) if per_row else None
    steps = np.float32(2**bits - 1)
    with np.errstate(all="ignore"):
        low = np.min(x, axis=axes, keepdims=per_row, initial=0).astype(np.float32)
        high = np.max(x, axis=axes, keepdims=per_row, initial=0).astype(np.float32)
        if symmetric:
            scale = (np.maximum(high, -low) / np.float32(2 ** (bits - 1) - 1)).astype(np.float32)
        else:
            scale = (np.minimum(high - low, _LARGEST) / steps).astype(np.float32)
        usable = scale >= TINY
        safe = np.where(usable, scale, np.float32(1)).astype(np.float32)
        zero = np.rint(-low / safe) if not symmetric else np.float32(2 ** (bits - 1))
        zero = np.where(usable, np.clip(zero, 0, steps), np.float32(0))
        finite = np.all(np.isfinite(x), axis=axes, keepdims=per_row)
        zero = np.where(finite, zero, np.float32(0)).astype(np.float32)
        q = np.clip(np.rint(x / safe), -zero, steps - zero) + zero
        q = np.where(finite, q, np.float32(0)).astype(np.uint8)
    scale = np.where(finite, safe, np.float32(np.nan)).astype(np.float32)
    return q, scale, zero.astype(np.uint8)


def dynamic_rescale(
    acc: np.ndarray,
    zero_point: np.ndarray,
    sums: np.ndarray,
    scale: np.ndarray | None = None,
    w_scale: np.ndarray | None = None,
    bias: np.ndarray | None = None,
) -> np.ndarray:
    """Accumulators of a layer of dynamically quantized activations to its output.

    The sum of the product and the bias is made in float64, in which the product is exact: so it
    is one rounding with or without a fused multiply-add.

    Parameters
    ----------
    acc : np.ndarray
        int32 ``[..., O]``, ``sum(q * w)``.
    zero_point : np.ndarray
        uint8, scalar or ``[..., 1]``.
    sums : np.ndarray
        int32 ``[O]``: sum of the weights of every output channel.
    scale : np.ndarray, optional
        float32, shape of ``zero_point``.
    w_scale, bias : np.ndarray, optional
        float32 ``[O]``.

    Returns
    -------
    np.ndarray
        ``acc - zero_point * sums`` (modulo 2**32), int32; with scales
        ``float32(float64(float32(that)) * float64(scale * w_scale) + bias)``.
    """
    wide = acc.astype(np.int64) - zero_point.astype(np.int64) * sums.astype(np.int64)
    corrected = wrap_int32(wide)
    if scale is None:
        return corrected
    multiplier = (scale * w_scale).astype(np.float32).astype(np.float64)
    product = corrected.astype(np.float32).astype(np.float64) * multiplier
    return (product + bias.astype(np.float64)).astype(np.float32)
