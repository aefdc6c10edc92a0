"""Weights in the order in which the fragments of tensor cores take them."""

from __future__ import annotations

import numpy as np

from tvmquant.schedules.cuda.plan import Plan


def pack_weights(weight: np.ndarray, groups: int, plan: Plan) -> np.ndarray:
    """Pack for :file:`igemm.cuh`.

    Parameters
    ----------
    weight : np.ndarray
        int8 ``[O, ...]``; the other axes are taps and input channels, in the order of K.
    groups : int
    plan : Plan

    Returns
    -------
    np.ndarray
        uint8, flat: by group, block of channels and slot of K, one contiguous piece each. In a
        piece come the words of 32 lanes for every step of K and eight channels. Lane ``l`` has
        channel ``l // 4``; its words of a step have the elements ``32 p + 16 r + 4 (l % 4) + b``
        of K in byte ``b``, where ``r`` is the word and ``p`` counts the parts of a byte (two
        nibbles, eight bits). Weights unpacked in registers have ``r``, and the steps that share
        a word, in the place of ``p``. Where activations are packed in memory a word of theirs
        has elements that follow each other: ``(4 r + l % 4) 4 P + 4 p + b`` of ``P`` parts.
    """
    outputs = weight.shape[0] // groups
    rows = weight.reshape(groups, outputs, -1)
    depth = rows.shape[2]
    blocks, slots = -(-outputs // plan.block_n), -(-depth // plan.block_k)
    padded = np.zeros((groups, blocks * plan.block_n, slots * plan.block_k), np.int8)
    if plan.w_bits == 1:
        # A bit is the sign: one for -1.
        padded[:, :outputs, :depth] = rows < 0
    else:
        padded[:, :outputs, :depth] = rows
    codes = padded.view(np.uint8).astype(np.uint32) & ((1 << plan.w_bits) - 1)
    if plan.unpacked:
        return _pack_fields(codes, blocks, slots, plan)
    parts = plan.step // 32
    outer = (groups, blocks, plan.block_n // 8, 8, slots, plan.block_k // plan.step)
    # group, block, slot, step, eight channels, channel, word of K, r | part, byte
    if plan.packed:
        axes = codes.reshape(*outer, 2, 4, parts, 4).transpose(0, 1, 4, 5, 2, 3, 7, 6, 8, 9)
    else:
        axes = codes.reshape(*outer, parts, 2, 4, 4).transpose(0, 1, 4, 5, 2, 3, 8, 7, 6, 9)
    shift = np.arange(parts)[:, None] * (8 // parts) + np.arange(4) * 8
    return _words(axes, shift)


def _pack_fields(codes: np.ndarray, blocks: int, slots: int, plan: Plan) -> np.ndarray:
    shared = 4 // plan.w_bits  # steps whose weights share a word
    groups = codes.shape[0]
    axes = codes.reshape(
        groups, blocks, plan.block_n // 8, 8, slots, plan.block_k // plan.granule, shared, 2, 4, 4
    )
    # group, block, slot, word, eight channels, channel, word of K | step, r, byte
    axes = axes.transpose(0, 1, 4, 5, 2, 3, 8, 6, 7, 9)
    field = np.arange(shared)[:, None] * 2 + np.arange(2)
    shift = field[:, :, None] * plan.w_bits + np.arange(4) * 8
    return _words(axes, shift)


def _words(axes: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Or the last axes together, each shifted to its place."""
    placed = axes << shift.astype(np.uint32)
    joined = np.bitwise_or.reduce(
        placed.reshape(*placed.shape[: placed.ndim - shift.ndim], -1), axis=-1
    )
    return np.ascontiguousarray(joined).astype("<u4").reshape(-1).view(np.uint8)
