"""Weights in the order in which the kernels read them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tvmquant.schedules.linear.geometry import InputPlan


def cannot_saturate(weight: np.ndarray, x_bits: int = 8) -> bool:
    """Whether ``vpmaddubsw`` is exact for 8-bit weights ``[O, ..., K]``.

    It adds two neighbouring products in int16. Of an even number of channels, every kernel pairs
    the first with the second and so on; of an odd one, any neighbours over the last two axes
    together (columns and channels) may meet.
    """
    low, high = pair_limits(x_bits)
    rows = weight.astype(np.int32)
    if rows.shape[-1] % 2 == 0:
        pairs = rows.reshape(*rows.shape[:-1], -1, 2)
        first, second = pairs[..., 0], pairs[..., 1]
    else:
        rows = rows.reshape(*rows.shape[:-2], -1) if rows.ndim > 2 else rows
        rows = np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(1, 1)])
        first, second = rows[..., :-1], rows[..., 1:]
    top = int((np.maximum(first, 0) + np.maximum(second, 0)).max())
    bottom = int((np.minimum(first, 0) + np.minimum(second, 0)).min())
    return top <= high and bottom >= low


def pair_limits(x_bits: int) -> tuple[int, int]:
    """Least and greatest sum of two weights of one sign that ``vpmaddubsw`` can take."""
    x_max = (1 << x_bits) - 1
    return -(32768 // x_max), 32767 // x_max


def pack_outputs(values: np.ndarray, outputs: int, groups: int, lanes: int) -> np.ndarray:
    """``[outputs]`` or ``[1]`` → flat ``[groups * lanes]``, zeros behind each group's outputs."""
    rows = np.broadcast_to(values.reshape(-1), (outputs,)).reshape(groups, -1)
    return np.pad(rows, ((0, 0), (0, lanes - rows.shape[1]))).reshape(-1)


def pack_weights(
    weight: np.ndarray, bits: int, plan: InputPlan, blocks: Sequence[int]
) -> np.ndarray:
    """Order and pack weights.

    Parameters
    ----------
    weight : np.ndarray
        int8 ``[O, KH, KW, C // groups]`` or ``[O, K]``.
    bits : int
        8, 4, 2 (two's complement codes) or 1 (code 0 for +1, 1 for -1).
    plan : InputPlan
    blocks : sequence of int
        Output channels (padding included) of the register blocks of one group, in order.

    Returns
    -------
    np.ndarray
        Flat, for each group and block ``[steps, channels, step]``; int8 for 8 bits, else uint8
        with ``8 // bits`` successive steps in one byte, the first in the highest bits.
    """
    g = plan.geometry
    taps = weight.reshape(g.out_channels, -1, weight.shape[-1])
    if plan.pad_channels:
        taps = np.pad(taps, ((0, 0), (0, 0), (0, plan.channels - taps.shape[-1])))
    flat = taps.reshape(g.groups, g.group_outputs, -1)
    flat = np.pad(flat, ((0, 0), (0, sum(blocks) - g.group_outputs), (0, 0)))
    index = plan.weight_index
    ordered = np.where(index >= 0, flat[..., np.maximum(index, 0)], 0)  # [G, O, steps, step]
    pieces = []
    for group in ordered:
        start = 0
        for lanes in blocks:
            block = group[start : start + lanes].transpose(1, 0, 2)  # [steps, lanes, step]
            pieces.append(_squeeze(block, bits).reshape(-1))
            start += lanes
    return np.concatenate(pieces)


def border_sums(weight: np.ndarray, plan: InputPlan, lanes: int) -> np.ndarray:
    """Sums of the weights that the pixels at the borders leave out.

    Returns
    -------
    np.ndarray
        int32, flat ``[borders, groups * lanes]``, see :attr:`InputPlan.borders`.
    """
    g = plan.geometry
    taps = weight.reshape(g.out_channels, *g.kernel, -1).sum(axis=-1, dtype=np.int32)
    sums = []
    for rows, columns in plan.borders:
        inside = np.delete(np.delete(taps, rows, axis=1), columns, axis=2)
        missing = taps.sum(axis=(1, 2)) - inside.sum(axis=(1, 2))
        sums.append(pack_outputs(missing.astype(np.int32), g.out_channels, g.groups, lanes))
    return np.concatenate(sums)


def _squeeze(block: np.ndarray, bits: int) -> np.ndarray:
    if bits == 8:
        return block.astype(np.int8)
    per = 8 // bits
    codes = (block < 0) if bits == 1 else (block & ((1 << bits) - 1))
    codes = np.pad(codes.astype(np.uint8), ((0, -len(block) % per), (0, 0), (0, 0)))
    codes = codes.reshape(-1, per, *block.shape[1:])
    shifts = (8 - bits * (1 + np.arange(per))).astype(np.uint8)[:, None, None]
    return np.bitwise_or.reduce(codes << shifts, axis=1).astype(np.uint8)
