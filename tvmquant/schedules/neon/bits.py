"""Multiplication of bits: what two words have in common, or where they differ, is counted.

Activations of several bits are ``sum(2**p * x_p)`` of single bits, planes that are multiplied one
by one. With weights -1 or 1 and ``n`` products, ``sum(x_p * w)`` is ``(n + sum(w)) / 2`` less the
number of products in which the bit ``x_p`` differs from that of ``w > 0``: the constant part goes
into the bias. Weights of more bits are planes as well, the highest of which is subtracted; there
the products in which both bits are set are counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.geometry import Geometry
from tvmquant.schedules.linear.tir import Expr, Register, bits_as, broadcast, cast, intrinsic, load
from tvmquant.schedules.neon.source import Source
from tvmquant.schedules.neon.steps import Step, Sums
from tvmquant.schedules.neon.vectors import constants, lane, neon, part, wrapping
from tvmquant.schedules.workload import Workload

_WORD = 16  # channels that a piece multiplies
# More pairs of planes than that never pay.
MOST_PAIRS = 4


@dataclass(frozen=True)
class BitSource(Source):
    """Workspace of bits, eight channels a byte, the first in the lowest bit.

    The planes of every 16 channels, the lowest first, are neighbours.

    Attributes
    ----------
    planes, w_planes : int
        Bits of an activation and of a weight.
    """

    planes: int = 1
    w_planes: int = 1

    @classmethod
    def of(cls, workload: Workload) -> BitSource | None:
        """Workspace of a workload of few bits, None where its channels do not fill words."""
        g, planes = Geometry.of(workload), workload.x_bits
        if g.groups != 1 or g.channels % _WORD:
            return None
        packed = replace(g, channels=g.channels * planes // 8)
        return cls(packed, "uint8", planes, workload.w_bits)

    def offset(self, at: Expr) -> Expr:
        """Offset in the input of the workspace's element ``at``."""
        return at * (8 // self.planes)

    @property
    def making(self) -> float:
        """Two for every plane of 16 activations, and the sums of eight lanes."""
        return (2 * self.planes + 7 * self.planes / 8) * self.elements / (2 * self.planes)

    @cached_property
    def run(self) -> int:
        """Bytes of weights in one run."""
        return self.width // self.planes * self.w_planes

    def fill(self, zero_point: Expr) -> Expr:
        """The zero point as it is stored."""
        return tirx.Cast("uint8", zero_point)

    def padding(self, fill: Expr, lanes: int) -> Expr:
        """``lanes`` bytes of planes of the zero point."""
        values = broadcast(fill, lanes)
        planes = [i // 2 % self.planes for i in range(lanes)]
        bits = (values >> constants("uint8", planes)) & broadcast(tirx.IntImm("uint8", 1), lanes)
        return broadcast(tirx.IntImm("uint8", 0), lanes) - bits

    def read(self, x: Expr, at: Expr, lanes: int) -> Expr:
        """``lanes`` bytes of planes."""
        places = range(_WORD)
        ones = constants("uint8", [1 << i % 8 for i in places])
        vectors = []
        for word in range(lanes // (2 * self.planes)):
            values = T.bind(load(x, at + _WORD * word, _WORD))
            for plane in range(self.planes):
                moves = constants("int8", [i % 8 - plane for i in places])
                moved = neon("uint8", _WORD, "ushl.v16i8", values, moves)
                vectors.append(T.bind(moved & ones if self.planes > 1 else moved))
        for _ in range(3):
            pairs = zip(vectors[::2], vectors[1::2]) if len(vectors) > 1 else [vectors * 2]
            vectors = [T.bind(neon("uint8", 16, "addp.v16i8", a, b)) for a, b in pairs]
        return vectors[0] if lanes == 16 else part(vectors[0], 0, lanes)

    def constant(self, weight: np.ndarray) -> np.ndarray:
        """int64 ``[O]``: what an output is if nothing is counted."""
        flat = weight.reshape(len(weight), -1).astype(np.int64)
        if self.w_planes > 1:
            return np.zeros(len(weight), np.int64)
        return ((1 << self.planes) - 1) * (flat.shape[1] + flat.sum(axis=1)) // 2

    def weights(self, weight: np.ndarray) -> np.ndarray:
        """int8 planes ``[1, outputs, runs, run]``."""
        taps = weight.reshape(len(weight), -1, _WORD)
        if self.w_planes == 1:
            planes = [taps > 0]
        else:
            planes = [taps >> plane & 1 for plane in range(self.w_planes)]
        packed = np.packbits(np.stack(planes, axis=2), axis=-1, bitorder="little").view(np.int8)
        runs = self.runs[0][0] * self.runs[1][0]
        return packed.reshape(1, len(weight), runs, self.run)


class Count(Step):
    """``eor`` or ``and``, ``cnt`` and ``uadalp``: two bytes of bits of eight channels.

    Parameters
    ----------
    x_bits, w_bits : int
    """

    name, x_dtype, w_dtype, lanes, depth = "cnt", "uint8", "uint8", 8, 2
    sum_dtype, negative = "int16", True

    def __init__(self, x_bits: int = 1, w_bits: int = 1) -> None:
        super().__init__(w_bits)
        self.x_bits = x_bits
        self.turn = self.x_turn * w_bits // x_bits

    @property
    def x_turn(self) -> int:
        """A register of planes."""
        return 16

    def exact(self, values: int) -> bool:
        """Whether the sums of so many products fit 16 bits."""
        x_max = (1 << self.x_bits) - 1
        if self.w_bits == 1:
            return values * x_max < 1 << 16
        return values * x_max << (self.w_bits - 1) < 1 << 15

    def registers(self, pixels: int, vectors: int) -> int:
        """Sums, activations, weights, and what is between the three instructions."""
        sums = pixels * vectors * self.x_bits * self.w_bits
        return sums + pixels + vectors + 4

    def instructions(self, pixels: int, vectors: int) -> float:
        """Three a pixel, vector and pair of planes, a broadcast a pixel, loads, the loop."""
        counts = 3 * self.x_bits * pixels * vectors
        broadcasts = self.x_bits / self.w_bits * pixels
        return (counts + broadcasts + vectors / 2) / 2 + (pixels + 4) / self.turn

    def sums(self, pixels: int, vectors: int) -> Sums:
        """A register a pixel, vector and pair of planes."""
        pairs = self.x_bits * self.w_bits
        return [
            [[Register("int16", 8) for _ in range(pairs)] for _ in range(vectors)]
            for _ in range(pixels)
        ]

    def piece(self, sums: Sums, xs: list[Expr], w: Expr, at: Expr, index: int) -> None:
        """Sixteen channels of every pixel and one plane of weights."""
        weights = [T.bind(load(w, at + 16 * v, 16)) for v in range(len(sums[0]))]
        word, w_plane = divmod(index, self.w_bits)
        for row, x in zip(sums, xs):
            for plane in range(self.x_bits):
                both = lane(bits_as("int16", 8, x), word * self.x_bits + plane, 8)
                bits = T.bind(bits_as("uint8", 16, both))
                for registers, weight in zip(row, weights):
                    register = registers[w_plane * self.x_bits + plane]
                    found = bits ^ weight if self.w_bits == 1 else bits & weight
                    counts = intrinsic("uint8", 16, "llvm.ctpop.v16i8", found)
                    pairs = neon("int16", 8, "uaddlp.v8i16.v16i8", counts)
                    register.set(wrapping("add", 16, 8, register.get(), pairs))

    def results(self, sums: Sums, pixel: int) -> list[Expr]:
        """What is subtracted from the channels of one pixel."""
        found = []
        for registers in sums[pixel]:
            total = T.bind(self._total(registers))
            if self.w_bits == 1:
                total = bits_as("uint16", 8, total)
            found += [cast("int32", 4, part(total, first, 4)) for first in (0, 4)]
        return found

    def _total(self, registers: list[Register]) -> Expr:
        """The pairs of planes by the powers of two that they stand for."""
        size = self.x_bits
        starts = range(0, len(registers), size)
        *rows, last = [_by_powers([r.get() for r in registers[i : i + size]]) for i in starts]
        if not rows:
            return last
        # The highest plane of weights is negative, and this is subtracted.
        return wrapping("sub", 16, 8, _times(last, len(rows)), _by_powers(rows))


def _by_powers(values: list[Expr]) -> Expr:
    total = values[0]
    for power, value in enumerate(values[1:], 1):
        total = wrapping("add", 16, 8, total, _times(value, power))
    return total


def _times(value: Expr, power: int) -> Expr:
    return value << broadcast(tirx.IntImm("int16", power), 8)
