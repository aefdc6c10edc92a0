"""Matrix product of float activations and integer weights with a scale for each group.

Float sums depend on their order, and every processor wants another one. So the meaning is the
exact real number, rounded once, together with how far a kernel may be from it.
"""

from __future__ import annotations

import numpy as np

# Unit roundoff of float32.
UNIT = 2.0**-24


def dequantize_groups(
    w: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None, group_size: int
) -> np.ndarray:
    """float64 ``[N, K]``: ``scale * (w - zero_point)`` with one scale for each group of a row."""
    depth = w.shape[1]
    wide = np.repeat(scale.astype(np.float64), group_size, 1)[:, :depth]
    if zero_point is None:
        return w * wide
    return (w - np.repeat(zero_point.astype(np.float64), group_size, 1)[:, :depth]) * wide


def weight_only_matmul(
    x: np.ndarray,
    w: np.ndarray,
    scale: np.ndarray,
    bias: np.ndarray,
    zero_point: np.ndarray | None = None,
    *,
    group_size: int,
) -> np.ndarray:
    """``x @ dequantize(w).T + bias``, summed in float64 and rounded to float32.

    Parameters
    ----------
    x : np.ndarray
        float32 ``[..., K]``.
    w : np.ndarray
        int8 ``[N, K]``.
    scale : np.ndarray
        float32 ``[N, ceil(K / group_size)]``.
    bias : np.ndarray
        float32 ``[N]``.
    zero_point : np.ndarray, optional
        int8, shape of ``scale``.
    group_size : int
        Inputs that share a scale; the last group may be shorter.

    Returns
    -------
    np.ndarray
        float32 ``[..., N]``. A kernel may differ by :func:`weight_only_bound`.
    """
    weight = dequantize_groups(w, scale, zero_point, group_size)
    return (x.astype(np.float64) @ weight.T + bias).astype(np.float32)


def weight_only_bound(
    x: np.ndarray,
    w: np.ndarray,
    scale: np.ndarray,
    bias: np.ndarray,
    zero_point: np.ndarray | None = None,
    *,
    group_size: int,
) -> np.ndarray:
    """Largest error of a float32 kernel, float64 ``[..., N]``.

    A sum of ``n`` products in any order is off by at most ``g = m u / (1 - m u)`` times the sum of
    the magnitudes, where ``m`` counts the roundings a term passes through (Higham 2002, "Accuracy
    and Stability of Numerical Algorithms", section 3.1). A kernel sums the products of a group
    (``group_size`` roundings) and then the groups and the bias (one each and one more for the
    scale); a zero point may be subtracted at the end, so its part counts as a magnitude of its
    own, with four more roundings (its product with the scale, the sum, the reference's own).

    A kernel may also compute in integers, with the activations of a group rounded to multiples of
    a power of two that is at most ``2**-21`` of the largest of them; that is off by half a multiple
    for each. The sums are then exact, so that such kernels are as precise as float ones.
    """
    groups = scale.shape[1]
    terms = min(group_size, w.shape[1]) + groups + 6
    sure = terms * UNIT / (1 - terms * UNIT)
    magnitude = np.abs(w.astype(np.float64))
    if zero_point is not None:
        zeros = np.abs(zero_point.astype(np.float64))
        magnitude = magnitude + np.repeat(zeros, group_size, 1)[:, : w.shape[1]]
    wide = np.repeat(np.abs(scale.astype(np.float64)), group_size, 1)[:, : w.shape[1]]
    total = np.abs(x.astype(np.float64)) @ (magnitude * wide).T + np.abs(bias)
    # Steps are no finer than the smallest normal number.
    step = np.maximum(_largest_of_groups(x, group_size) * 2.0**-21, 2.0**-126)
    rounded = step @ _groups_of(magnitude * wide, group_size).sum(-1).T / 2
    # Below the normal range a rounding is off by half the smallest float32.
    return sure * (total + rounded) + rounded + terms * x.shape[-1] * 2.0**-149


def _groups_of(values: np.ndarray, group_size: int) -> np.ndarray:
    """``[..., K]`` → ``[..., groups, group_size]``, the last group filled with zeros."""
    pad = -values.shape[-1] % group_size
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, pad)])
    return padded.reshape(*values.shape[:-1], -1, group_size)


def _largest_of_groups(x: np.ndarray, group_size: int) -> np.ndarray:
    """float64 ``[..., groups]``: the largest magnitude of every group."""
    return np.abs(_groups_of(x.astype(np.float64), group_size)).max(-1)
