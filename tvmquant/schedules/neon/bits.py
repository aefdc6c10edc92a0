"""Multiplication of single bits: exclusive or, and a count of what differs.

With activations 0 or 1, weights -1 or 1 and ``n`` products, ``sum(x * w)`` is
``(n + sum(w)) / 2`` less the number of products in which the bit of ``x`` differs from that of
``w > 0``: the constant part goes into the bias.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.geometry import Geometry
from tvmquant.schedules.linear.tir import Expr, Register, bits_as, cast, intrinsic, load
from tvmquant.schedules.neon.source import Source
from tvmquant.schedules.neon.steps import Step, Sums
from tvmquant.schedules.neon.vectors import lane, neon, part, wrapping
from tvmquant.schedules.workload import Workload

_WORD = 16  # channels that a piece multiplies


@dataclass(frozen=True)
class BitSource(Source):
    """Workspace of bits, eight channels a byte, the first in the lowest bit."""

    per: ClassVar[int] = 8

    @classmethod
    def of(cls, workload: Workload) -> BitSource | None:
        """Workspace of a workload of single bits, None where its channels do not fill words."""
        g = Geometry.of(workload)
        if g.groups != 1 or g.channels % _WORD:
            return None
        return cls(replace(g, channels=g.channels // cls.per), "uint8")

    def fill(self, zero_point: Expr) -> Expr:
        """All bits as the zero point."""
        return tirx.Cast("uint8", tirx.IntImm("int32", 0) - zero_point)

    def read(self, x: Expr, at: Expr, lanes: int) -> Expr:
        """``lanes`` bytes of bits."""
        places = tirx.Shuffle([tirx.IntImm("uint8", i % 8) for i in range(16)], list(range(16)))
        vectors = [T.bind(load(x, at + 16 * i, 16) << places) for i in range(lanes // 2)]
        for _ in range(3):
            pairs = zip(vectors[::2], vectors[1::2]) if len(vectors) > 1 else [vectors * 2]
            vectors = [T.bind(neon("uint8", 16, "addp.v16i8", a, b)) for a, b in pairs]
        return vectors[0] if lanes == 16 else part(vectors[0], 0, lanes)

    def constant(self, weight: np.ndarray) -> np.ndarray:
        """int64 ``[O]``: what an output is if no bit differs."""
        flat = weight.reshape(len(weight), -1).astype(np.int64)
        return (flat.shape[1] + flat.sum(axis=1)) // 2

    def weights(self, weight: np.ndarray) -> np.ndarray:
        """int8 bits ``[1, outputs, runs, run]``."""
        taps = (weight > 0).reshape(len(weight), -1, weight.shape[-1])
        packed = np.packbits(taps, axis=-1, bitorder="little").view(np.int8)
        return super().weights(packed)


class Count(Step):
    """``eor``, ``cnt`` and ``uadalp``: two bytes of bits of eight channels."""

    name, x_dtype, w_dtype, lanes, depth, turn = "cnt", "uint8", "uint8", 8, 2, 16
    sum_dtype, negative = "int16", True

    def registers(self, pixels: int, vectors: int) -> int:
        """Sums, activations, weights, and what is between the three instructions."""
        return pixels * vectors + pixels + vectors + 4

    def instructions(self, pixels: int, vectors: int) -> float:
        """Three a pixel and vector, a broadcast a pixel, half a load a vector, the loop."""
        return (3 * pixels * vectors + pixels + vectors / 2) / 2 + pixels / 16 + 4 / 16

    def sums(self, pixels: int, vectors: int) -> Sums:
        """One register a pixel and vector."""
        return [[[Register("int16", 8)] for _ in range(vectors)] for _ in range(pixels)]

    def piece(self, sums: Sums, xs: list[Expr], w: Expr, at: Expr, index: int) -> None:
        """Sixteen bits of every pixel."""
        weights = [T.bind(load(w, at + 16 * v, 16)) for v in range(len(sums[0]))]
        for row, x in zip(sums, xs):
            word = T.bind(bits_as("uint8", 16, lane(bits_as("int16", 8, x), index, 8)))
            for (register,), weight in zip(row, weights):
                counts = intrinsic("uint8", 16, "llvm.ctpop.v16i8", word ^ weight)
                pairs = neon("int16", 8, "uaddlp.v8i16.v16i8", counts)
                register.set(wrapping("add", 16, 8, register.get(), pairs))

    def results(self, sums: Sums, pixel: int) -> list[Expr]:
        """Counts of the channels of one pixel."""
        return [
            cast("int32", 4, bits_as("uint16", 4, part(register.get(), first, 4)))
            for (register,) in sums[pixel]
            for first in (0, 4)
        ]
