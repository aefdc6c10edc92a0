"""Sub-byte codes of a flat array of weights, and what widens them when a model is loaded."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvmquant.schedules.functions import argument, mark
from tvmquant.schedules.linear.tir import Expr, broadcast, cast, i64, load, splat, store

# Bytes of codes that are widened at once; the codes of their weights lie that far apart.
LANES = 16


def pack_codes(weights: np.ndarray, bits: int) -> np.ndarray:
    """Pack int8 weights of ``bits`` bits.

    Parameters
    ----------
    weights : np.ndarray
        int8, flat; ±1 at one bit.
    bits : int
        4, 2 or 1.

    Returns
    -------
    np.ndarray
        uint8, flat: in every block of :data:`LANES` bytes byte ``i`` holds, from the lowest bits
        up, weights ``i``, ``i + LANES``, ``i + 2 * LANES`` … of the block's.
    """
    per = 8 // bits
    codes = (weights < 0) if bits == 1 else weights & ((1 << bits) - 1)
    codes = np.pad(codes.astype(np.uint8), (0, -len(weights) % (per * LANES)))
    shifts = (bits * np.arange(per, dtype=np.uint8))[:, None]
    return np.bitwise_or.reduce(codes.reshape(-1, per, LANES) << shifts, axis=1).reshape(-1)


def make_widen(name: str, count: int, bits: int) -> Any:
    """PrimFunc ``(packed, weights)`` that undoes :func:`pack_codes` for ``count`` weights.

    ``count`` must be a multiple of 4: the last block, if it is not full, is written in fours.
    """
    per = 8 // bits
    blocks, rest = divmod(count, per * LANES)
    size = (blocks + bool(rest)) * LANES
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            packed = argument("packed", (size,), "uint8")
            weights = argument("weights", (count,), "int8")
            mark(name)
            if blocks:
                with T.parallel(i64(blocks)) as block:
                    codes = T.bind(cast("int16", LANES, load(packed, block * LANES, LANES)))
                    for part in range(per):
                        at = block * (per * LANES) + part * LANES
                        store(weights, _widen(codes, part, bits, LANES), at, LANES)
            for start in range(0, rest, 4):
                part, lane = divmod(start, LANES)
                codes = cast("int16", 4, load(packed, i64(blocks * LANES + lane), 4))
                at = i64(blocks * per * LANES + start)
                store(weights, _widen(codes, part, bits, 4), at, 4)
    return builder.get()


def _widen(codes: Expr, part: int, bits: int, lanes: int) -> Expr:
    """int8 weights of the codes ``part`` places up."""
    up = tirx.IntImm("int16", 16 - bits * (part + 1))
    value = (codes << broadcast(up, lanes)) >> splat("int16", 16 - bits, lanes)
    if bits == 1:  # 0 or -1
        value = value | splat("int16", 1, lanes)
    return cast("int8", lanes, value)
