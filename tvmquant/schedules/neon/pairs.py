"""int8 products added in pairs in int16, then to int32 (``smull``, ``smlsl2``, ``sadalp``).

Two products of any int8 values need not fit into int16: ``-128 * -128`` twice does not. But with
activations ``127 - x`` in the first product and ``x - 128`` in the second, which is subtracted,
the sum is minus that of ``x * w`` up to a constant, and lies within ±32640.
"""

from __future__ import annotations

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.tir import Expr, Register, broadcast, cast, load
from tvmquant.schedules.neon.source import Source
from tvmquant.schedules.neon.steps import Step, Sums
from tvmquant.schedules.neon.vectors import neon, part, wrapping

DEPTH = 16


class PairSource(Source):
    """Workspace of int8: in every 16 channels ``127 - x`` in the first half, then ``x - 128``."""

    def fill(self, zero_point: Expr) -> Expr:
        """The zero point as it is stored."""
        return tirx.Cast("uint8", zero_point)

    def padding(self, fill: Expr, lanes: int) -> Expr:
        """``lanes`` channels of padding."""
        return _form(broadcast(fill, lanes), lanes)

    def read(self, x: Expr, at: Expr, lanes: int) -> Expr:
        """``lanes`` neighbouring values of the workspace."""
        return _form(load(x, at, lanes), lanes)

    def constant(self, weight: np.ndarray) -> np.ndarray:
        """int64 ``[O]``: what the form of the activations takes away from every output."""
        halves = weight.astype(np.int64).reshape(len(weight), -1, 2, DEPTH // 2).sum(axis=(1, 3))
        return 127 * halves[:, 0] + 128 * halves[:, 1]


def _form(value: Expr, lanes: int) -> Expr:
    masks = [tirx.IntImm("uint8", 0x7F if i % DEPTH < DEPTH // 2 else 0x80) for i in range(lanes)]
    return cast("int8", lanes, value ^ tirx.Shuffle(masks, list(range(lanes))))


class Pairs(Step):
    """Sums along the channels: a register holds four parts of one output."""

    name, x_dtype, lanes, depth, turn, negative = "sadalp", "int8", 4, DEPTH, DEPTH, True

    def registers(self, pixels: int, vectors: int) -> int:
        """Sums, activations, weights, and what is between the three instructions."""
        return 4 * pixels * vectors + pixels + 7

    def instructions(self, pixels: int, vectors: int) -> float:
        """Three for sixteen products, loads, the loop."""
        return (12 * pixels * vectors + pixels + 2 * vectors + 4) / 16

    def sums(self, pixels: int, vectors: int) -> Sums:
        """Four registers a pixel and vector."""
        return [
            [[Register("int32", 4) for _ in range(4)] for _ in range(vectors)]
            for _ in range(pixels)
        ]

    def results(self, sums: Sums, pixel: int) -> list[Expr]:
        """The four parts of four outputs, added."""
        found = []
        for vector in sums[pixel]:
            a, b, c, d = (register.get() for register in vector)
            halves = [neon("int32", 4, "addp.v4i32", *pair) for pair in ((a, b), (c, d))]
            found.append(neon("int32", 4, "addp.v4i32", *halves))
        return found

    def piece(self, sums: Sums, xs: list[Expr], w: Expr, at: Expr, index: int) -> None:
        """Sixteen values of every pixel."""
        for v in range(len(sums[0])):
            for channel in range(4):
                weight = T.bind(load(w, at + DEPTH * (4 * v + channel), DEPTH))
                for row, x in zip(sums, xs):
                    register = row[v][channel]
                    register.set(_add_products(register.get(), x, weight))


def _add_products(acc: Expr, x: Expr, w: Expr) -> Expr:
    first, second = (
        neon("int16", 8, "smull.v8i16", part(x, start, 8), part(w, start, 8)) for start in (0, 8)
    )
    pairs = neon("int32", 4, "saddlp.v4i32.v8i16", wrapping("sub", 16, 8, first, second))
    return wrapping("add", 32, 4, acc, pairs)
