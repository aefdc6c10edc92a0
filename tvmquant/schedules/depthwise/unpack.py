"""Weights of depthwise kernels, unpacked to int8 when a task begins."""

from __future__ import annotations

from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.tir import Expr, bits_as, i64, load, splat, store


def unpack_weights(codes: Expr, base: Expr, size: int, bits: int, width: int) -> Expr:
    """Flat int8 buffer ``[taps, width]`` of the codes that :func:`.packing.pack_weight` made.

    Parameters
    ----------
    codes : Buffer
        Flat uint8.
    base : Expr
        Offset of the block's first code.
    size : int
        Codes of a channel.
    bits : int
    width : int
        Channels of the block.
    """
    per = 8 // bits
    taps = T.alloc_buffer((i64(per * size * width),), "int8")
    with T.serial(i64(size)) as i:
        packed = T.bind(load(codes, base + i * width, width))
        for k in range(per):
            store(taps, _decode(packed, k, bits, width), (i * per + k) * width, width)
    return taps


def _decode(codes: Expr, k: int, bits: int, width: int) -> Expr:
    """int8 weights of the ``k``-th code of every byte."""
    if bits == 8:
        return bits_as("int8", width, codes)
    if k:
        codes = codes >> splat("uint8", k * bits, width)
    codes = bits_as("int8", width, codes & splat("uint8", (1 << bits) - 1, width))
    if bits == 1:
        return codes + codes - splat("int8", 1, width)
    sign = splat("int8", 1 << (bits - 1), width)
    return (codes ^ sign) - sign
