"""Chains of products of one depthwise output, added in int16 before int32 takes their sum.

A chain costs an instruction a tap and two to widen, so long ones are better; how long they may be
is proven from the bits. Two products of any int8 values need not fit: ``-128 * -128`` twice does
not. So 8-bit activations are stored like a chess board, ``x - 128`` on one colour and its
complement ``127 - x`` on the other, and a chain adds products of the first and subtracts those of
the second.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from tvmquant.schedules.workload import Workload

_INT16 = 1 << 15


@dataclass(frozen=True)
class Chain:
    """Taps whose products are added in int16.

    Attributes
    ----------
    taps : tuple of (int, int)
        Rows and columns of the kernel.
    signs : tuple of int
        1 where a product is added, -1 where it is subtracted; the first is 1.
    start : int
        What the sum starts from, 0 for the first product itself.
    sign : int
        -1 where the sum is to be subtracted from that of all chains.
    """

    taps: tuple[tuple[int, int], ...]
    signs: tuple[int, ...]
    start: int
    sign: int

    @property
    def cost(self) -> int:
        """Instructions for eight channels."""
        return len(self.taps) + 2 + (self.start != 0)


@dataclass(frozen=True)
class Form:
    """How the activations of a layer are stored, and the chains of its outputs.

    Attributes
    ----------
    workload : Workload
        ``depthwise_conv2d``.
    """

    workload: Workload

    rows: ClassVar[int] = 1

    @property
    def board(self) -> bool:
        """Whether activations are stored like a chess board."""
        return self.workload.x_bits == 8 and self.workload.w_bits == 8

    @property
    def masks(self) -> tuple[int, int]:
        """What activations of both colours are combined with by exclusive or."""
        if self.workload.x_bits < 8:
            return 0, 0
        return 0x80, (0x7F if self.board else 0x80)

    @property
    def colours(self) -> int:
        """How many colours the first tap of an output may have."""
        odd = any(stride % 2 for stride in self.workload.strides)
        return 2 if self.board and odd else 1

    @cached_property
    def taps(self) -> list[tuple[int, int]]:
        """Rows and columns of the kernel."""
        kh, kw = self.workload.w_shape[1:3]
        return [(i, j) for i in range(kh) for j in range(kw)]

    def chains(self, colour: int) -> list[Chain]:
        """Chains of an output whose first tap has this colour; those of both have equal taps."""
        return self._cuts[colour]

    @cached_property
    def _cuts(self) -> list[list[Chain]]:
        sizes = range(1, len(self.taps) + 1)
        cuts = [[self._cut(size, colour) for colour in range(self.colours)] for size in sizes]
        return min((both for both in cuts if all(both)), key=_cost)

    def correction(self, weight: np.ndarray, colour: int) -> np.ndarray:
        """int64 ``[O]``: what sums over the stored values of int8 ``[O, KH, KW, 1]`` lack."""
        total = np.zeros(len(weight), np.int64)
        for i, j in self.taps:
            mask = self.masks[self._sign((i, j), colour) < 0]
            total += mask * weight[:, i, j, 0].astype(np.int64)
        return total - sum(chain.sign * chain.start for chain in self.chains(colour))

    def _sign(self, tap: tuple[int, int], colour: int) -> int:
        """-1 where the stored activation of a tap is complemented."""
        rows, columns = self.workload.dilation
        return -1 if self.board and (colour + tap[0] * rows + tap[1] * columns) % 2 else 1

    def _cut(self, size: int, colour: int) -> list[Chain] | None:
        """Chains of ``size`` taps, None where they are not proven exact."""
        found = []
        for first in range(0, len(self.taps), size):
            taps = sorted(self.taps[first : first + size], key=lambda tap: -self._sign(tap, colour))
            sign = self._sign(taps[0], colour)
            signs = tuple(sign * self._sign(tap, colour) for tap in taps)
            start = self._start(signs)
            if start is None:
                return None
            found.append(Chain(tuple(taps), signs, start, sign))
        return found

    def _start(self, signs: tuple[int, ...]) -> int | None:
        """The start that keeps a sum in int16, None without one."""
        w = self.workload
        most = 1 if w.w_bits == 1 else 1 << (w.w_bits - 1)
        weights = (-most, 1 if w.w_bits == 1 else most - 1)
        stored = (-128, 127) if w.x_bits == 8 else (0, (1 << w.x_bits) - 1)
        products = [a * b for a in weights for b in stored]
        low = sum(min(products) if sign > 0 else -max(products) for sign in signs)
        high = sum(max(products) if sign > 0 else -min(products) for sign in signs)
        if w.max_abs_sum is not None:
            bound = w.max_abs_sum * max(map(abs, stored))
            low, high = max(low, -bound), min(high, bound)
        if high - low >= 2 * _INT16:
            return None
        return min(0, _INT16 - 1 - high) + max(0, -_INT16 - low)


def _cost(cuts: list[list[Chain]]) -> int:
    return sum(chain.cost for cut in cuts for chain in cut)
