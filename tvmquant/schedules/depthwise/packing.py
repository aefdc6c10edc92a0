"""Constants of depthwise kernels: what the exported file holds."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from tvmquant.reference.quantize import pack_bits


class Blocks(Protocol):
    """How channels are cut into blocks."""

    @property
    def width(self) -> int:
        """Channels of a block."""

    @property
    def blocks(self) -> int:
        """How many there are."""

    @property
    def channels(self) -> int:
        """Output channels."""

    def block_start(self, block: int) -> int:
        """First channel of a block."""


def block_channels(plan: Blocks) -> np.ndarray:
    """int64 ``[blocks, width]``: channel of every lane, lanes without one repeat the last."""
    starts = np.array([plan.block_start(b) for b in range(plan.blocks)])
    return np.minimum(starts[:, None] + np.arange(plan.width), plan.channels - 1)


def pack_weight(weight: np.ndarray, bits: int, plan: Blocks) -> np.ndarray:
    """Weights in the order in which the kernel unpacks them.

    Parameters
    ----------
    weight : np.ndarray
        int8 ``[O, KH, KW, 1]``.
    bits : int
        8, 4, 2 or 1; ±1 at one bit.
    plan : Blocks

    Returns
    -------
    np.ndarray
        uint8 ``[blocks, ceil(KW * KH * bits / 8), width]``: tap ``kw * KH + kh`` of a channel
        sits in bits ``(tap % (8 / bits)) * bits`` and up of byte ``tap // (8 / bits)``.
    """
    o, kh, kw, _ = weight.shape
    taps = weight.reshape(o, kh, kw).transpose(0, 2, 1).reshape(o, kw * kh)
    if bits == 1:
        codes = pack_bits((taps > 0).astype(np.uint8), 1)
    elif bits == 8:
        codes = taps.view(np.uint8)
    else:
        codes = pack_bits(taps.view(np.uint8) & np.uint8((1 << bits) - 1), bits)
    return np.ascontiguousarray(codes[block_channels(plan)].transpose(0, 2, 1))


def pack_channels(values: np.ndarray, plan: Blocks, order: np.ndarray) -> np.ndarray:
    """Arrange per-channel constants in accumulator order: ``[O]`` or ``[1]`` → ``[blocks, width]``.

    Parameters
    ----------
    values : np.ndarray
    plan : Blocks
    order : np.ndarray
        :meth:`tvmquant.schedules.depthwise.dots.Dot.channel_order`.
    """
    values = np.broadcast_to(values.reshape(-1), (plan.channels,))
    return np.ascontiguousarray(values[block_channels(plan)[:, order]])
