"""Multiplication of activations of few bits by single bits, looked up (``tbl``).

Four weights of ±1 have sixteen products with four activations. These are added for each of the
sixteen once a pixel, in a table of 16 bytes that all output channels and all taps of the filter
read. One instruction looks up 16 of 32 bytes, so 64 products: of eight output channels with two
tables, which ``sadalp`` adds to a 16-bit sum. Activations lose half their range, so that sums
stay small.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvmquant.schedules.functions import argument, mark
from tvmquant.schedules.linear.geometry import Geometry
from tvmquant.schedules.linear.tir import Expr, Register, broadcast, cast, i64, load, splat, store
from tvmquant.schedules.neon.packing import LANES, packed_size
from tvmquant.schedules.neon.source import Source
from tvmquant.schedules.neon.steps import Step, Sums
from tvmquant.schedules.neon.vectors import constants, neon, part, pick, wrapping
from tvmquant.schedules.workload import Expansion, Workload

_GROUP = 4  # activations of a table
_TABLE = 1 << _GROUP


@dataclass(frozen=True)
class TableSource(Source):
    """Workspace of tables, 16 bytes for every four channels of a pixel.

    Entry ``i`` is the sum of the four activations, those subtracted whose bit of ``i`` is 0.

    Attributes
    ----------
    x_bits : int
    """

    x_bits: int = 2

    @classmethod
    def of(cls, workload: Workload) -> TableSource | None:
        """Workspace of a workload, None where its channels do not fill pairs of tables."""
        g = Geometry.of(workload)
        if g.groups != 1 or g.channels % (2 * _GROUP):
            return None
        size = _TABLE // _GROUP
        return cls(replace(g, channels=size * g.channels), "int8", workload.x_bits)

    @property
    def middle(self) -> int:
        """What is subtracted from activations."""
        return 1 << (self.x_bits - 1)

    @property
    def lanes(self) -> int:
        """Bytes that are written together: tables of 8 or 16 channels."""
        return 4 * LANES if self.geometry.channels % (4 * LANES) == 0 else 2 * LANES

    @property
    def making(self) -> float:
        """For 16 channels eight, and three for every table."""
        return 20 * self.elements / (4 * LANES)

    @cached_property
    def run(self) -> int:
        """Indices of an output channel in one run."""
        return self.width // _TABLE

    def offset(self, at: Expr) -> Expr:
        """Offset in the input of the workspace's element ``at``."""
        return at // (_TABLE // _GROUP)

    def fill(self, zero_point: Expr) -> Expr:
        """The zero point, less what is subtracted."""
        return tirx.Cast("int8", zero_point - self.middle)

    def padding(self, fill: Expr, lanes: int) -> list[Expr]:
        """``lanes`` bytes of tables of the zero point."""
        return _tables(broadcast(fill, LANES), lanes // LANES)

    def read(self, x: Expr, at: Expr, lanes: int) -> list[Expr]:
        """``lanes`` bytes of tables."""
        count = lanes // (_TABLE // _GROUP)
        values = cast("int8", count, load(x, at, count)) - splat("int8", self.middle, count)
        if count < LANES:
            values = T.bind(values)
            values = pick(values, values, [i % count for i in range(LANES)])
        return _tables(values, lanes // LANES)

    def constant(self, weight: np.ndarray) -> np.ndarray:
        """int64 ``[O]``: what the form of the activations takes away from every output."""
        return self.middle * weight.reshape(len(weight), -1).astype(np.int64).sum(axis=1)

    def weights(self, weight: np.ndarray) -> np.ndarray:
        """int8 indices ``[1, outputs, runs, run]``: of minus the sums of products."""
        bits = (weight < 0).reshape(len(weight), -1, _GROUP)
        indices = (bits << np.arange(_GROUP)).sum(axis=-1).astype(np.int8)
        return indices.reshape(1, len(weight), -1, self.run)


def _tables(values: Expr, count: int) -> list[Expr]:
    """Tables of four int8 each, of the first of 16 lanes."""
    values = T.bind(values)
    others = T.bind(pick(values, values, [i ^ 1 for i in range(LANES)]))
    total, less = T.bind(values + others), T.bind(values - others)
    minus = T.bind(splat("int8", 0, LANES) - total)
    even = [i + j for i in range(0, LANES, 2) for j in (0, LANES)]
    low = T.bind(pick(minus, less, even))
    high = T.bind(pick(less, total, [i + 1 for i in even]))
    found = []
    for pair in range(count // 2):
        # Four sums of each of four neighbouring pairs of values.
        order = [2 * (4 * pair + i) + j for i in range(4) for j in (0, 1, LANES, LANES + 1)]
        sums = T.bind(pick(low, high, order))
        for first in (0, 8):
            a = pick(sums, sums, [first + i % 4 for i in range(LANES)])
            b = pick(sums, sums, [first + 4 + i // 4 for i in range(LANES)])
            found.append(T.bind(T.bind(a) + T.bind(b)))
    return found


class Lookup(Step):
    """``tbl`` and ``sadalp``: eight channels of eight output channels."""

    name, x_dtype, w_dtype, lanes, depth, turn = "tbl", "int8", "uint8", 8, 2, 2
    sum_dtype, negative = "int16", True

    def __init__(self, x_bits: int) -> None:
        super().__init__(1)
        self.x_bits = x_bits

    @property
    def x_turn(self) -> int:
        """A table an index."""
        return _TABLE * self.turn

    def exact(self, values: int) -> bool:
        """Whether the sums of so many products fit 16 bits."""
        return self.x_bits <= 4 and values << (self.x_bits - 1) < 1 << 15

    def registers(self, pixels: int, vectors: int) -> int:
        """Sums, pairs of tables, weights, what was looked up."""
        return pixels * vectors + 2 * pixels + min(vectors, 4) + 2

    def instructions(self, pixels: int, vectors: int) -> float:
        """Two a pixel and vector, loads of two registers, the loop."""
        return (2 * pixels * vectors + pixels + vectors / 2) / 2 + 4 / self.turn

    def sums(self, pixels: int, vectors: int) -> Sums:
        """One register a pixel and vector."""
        return [[[Register("int16", 8)] for _ in range(vectors)] for _ in range(pixels)]

    def values(self, x: Expr, offsets: list[Expr]) -> list[Expr]:
        """Where the tables of all pixels are: they are loaded when they are needed."""
        return [(x, T.bind(at)) for at in offsets]

    def piece(self, sums: Sums, xs: list[Expr], w: Expr, at: Expr, index: int) -> None:
        """Two tables of every pixel."""
        weights = [T.bind(load(w, at + 16 * v, 16)) for v in range(len(sums[0]))]
        for row, (x, start) in zip(sums, xs):
            first = start + 2 * _TABLE * index
            tables = [T.bind(load(x, first + i, _TABLE)) for i in (0, _TABLE)]
            for (register,), weight in zip(row, weights):
                found = neon("int8", 16, "tbl2.v16i8", *tables, weight)
                pairs = neon("int16", 8, "saddlp.v8i16.v16i8", found)
                register.set(wrapping("add", 16, 8, register.get(), pairs))

    def results(self, sums: Sums, pixel: int) -> list[Expr]:
        """What is subtracted from the channels of one pixel."""
        return [
            cast("int32", 4, part(register.get(), first, 4))
            for (register,) in sums[pixel]
            for first in (0, 4)
        ]


def make_index_expansion(name: str, count: int) -> Expansion:
    """Expansion of indices of four bits to bytes, every other one that of a second table."""
    size = packed_size(count, _GROUP)
    second = constants("uint8", [_TABLE * (i % 2) for i in range(LANES)])
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            packed = argument("packed", (size,), "uint8")
            out = argument("out", (2 * size,), "uint8")
            mark(name)
            with T.serial(i64(size // LANES)) as i:
                codes = T.bind(load(packed, i * LANES, LANES))
                low = codes & splat("uint8", _TABLE - 1, LANES)
                high = codes >> splat("uint8", _GROUP, LANES)
                for piece, value in enumerate((low, high)):
                    store(out, value | second, piece * size + i * LANES, LANES)
    return Expansion(builder.get(), 1, (((2 * size,), "uint8"),))
