"""Weights in the order in which products of four warps take them."""

from __future__ import annotations

import numpy as np

from tvmquant.schedules.cuda.warpgroup_plan import ROWS, WarpgroupPlan

_THREADS = 128


def pack_warpgroup_weights(weight: np.ndarray, groups: int, plan: WarpgroupPlan) -> np.ndarray:
    """Pack for :file:`warpgroup.cuh`.

    Parameters
    ----------
    weight : np.ndarray
        int8 ``[O, ...]``; the other axes are taps and input channels, in the order of K.
    groups : int
    plan : WarpgroupPlan

    Returns
    -------
    np.ndarray
        uint8, flat: by group, block of channels and slot of K, one contiguous piece each. Row
        ``16 q + 8 h + r`` of a product is channel ``16 q + 2 r + h`` of 64, so that a thread has
        sums of neighbours. From shared memory, a piece is rows of bytes whose chunks of 16 are
        swapped by the row. From registers it has, by 64 channels, part of K and up to 16 bytes,
        the words of 128 threads. Thread ``32 q + 4 r + t`` holds of step ``s`` of a part the
        elements ``32 s + 16 u + 4 t + b`` of row ``16 q + 8 h + r`` in byte ``b`` of word
        ``4 s + 2 u + h``; weights of fewer bits have that word's byte in fields of one word.
    """
    outputs = weight.shape[0] // groups
    rows = weight.reshape(groups, outputs, -1)
    depth = rows.shape[2]
    blocks, slots = -(-outputs // plan.block_n), -(-depth // plan.block_k)
    padded = np.zeros((groups, blocks * plan.block_n, slots * plan.block_k), np.int8)
    # A bit is the sign: one for -1.
    padded[:, :outputs, :depth] = rows < 0 if plan.w_bits == 1 else rows
    codes = padded.view(np.uint8) & np.uint8((1 << plan.w_bits) - 1)
    tiles = plan.block_n // ROWS
    # group, block, tile, q, r, h, slot, K
    split = codes.reshape(groups, blocks, tiles, 4, 8, 2, slots, plan.block_k)
    if plan.source == "shared":
        return _swizzled(split.transpose(0, 1, 6, 2, 3, 5, 4, 7), plan)
    steps = plan.block_k // 32 // plan.parts
    split = split.reshape(*split.shape[:-1], plan.parts, steps, 2, 4, 4)
    # group, block, slot, tile, part | q, r, t | step, u, h | b
    split = split.transpose(0, 1, 6, 2, 7, 3, 4, 10, 8, 9, 5, 11)
    fields = 8 // plan.w_bits
    words = 4 * steps // fields
    split = split.reshape(-1, _THREADS, words, fields, 4).astype(np.uint32)
    shift = np.arange(fields)[:, None] * plan.w_bits + np.arange(4) * 8
    joined = np.bitwise_or.reduce(
        (split << shift.astype(np.uint32)).reshape(-1, words, 4 * fields), -1
    )
    piece = min(4, words)
    pieces = joined.reshape(-1, _THREADS, words // piece, piece).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(pieces).astype("<u4").reshape(-1).view(np.uint8)


def _swizzled(rows: np.ndarray, plan: WarpgroupPlan) -> np.ndarray:
    """Rows of a slot one after the other, chunk ``c`` of a row where its swizzle says."""
    chunks = plan.block_k // 16
    matrices = rows.reshape(-1, plan.block_n, chunks, 16)
    row = np.arange(plan.block_n)[:, None] * chunks // 8
    order = np.arange(chunks) ^ (row & (chunks - 1))
    return np.ascontiguousarray(matrices[:, np.arange(plan.block_n)[:, None], order]).reshape(-1)
