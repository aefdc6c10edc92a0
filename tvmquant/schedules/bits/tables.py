"""Products of 1- and 2-bit values by table: one byte shuffle looks up several at once.

A *group* is a few activations of one pixel; together they are a number, and for every such
number there is a row of a table: the sum of products of these activations with every possible
group of weights. The weights of a group are an index, one byte for each output channel, so that
a shuffle of the row by the indices gives one group's sum for as many output channels as the
vector has bytes, and a byte addition accumulates it. Rows hold unsigned bytes (a constant is
added to every sum and taken from the bias); the byte sums are widened before they can overflow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.tir import (
    Expr,
    Register,
    bits_as,
    cast,
    i64,
    intrinsic,
    load,
    splat,
    store,
)

_SHUFFLE = {
    (16, 64): "llvm.x86.avx512.pshuf.b.512",
    (16, 32): "llvm.x86.avx2.pshuf.b",
    (16, 16): "llvm.x86.ssse3.pshuf.b.128",
    (64, 64): "llvm.x86.avx512.permvar.qi.512",
}


@dataclass(frozen=True)
class Tables:
    """Tables and their instructions.

    Attributes
    ----------
    entries : int
        Bytes of a row: 16 (``vpshufb``, in every 128 bits of the vector) or 64 (``vpermb``).
    lanes : tuple of int
        Vector widths in bytes, widest first.
    registers : int
        Vector registers of the processor.
    x_bits, w_bits : int
    """

    entries: int
    lanes: tuple[int, ...]
    registers: int
    x_bits: int
    w_bits: int

    x86 = True

    @property
    def name(self) -> str:
        """Shuffle instruction, for names of kernels."""
        return f"{'vpermb' if self.entries == 64 else 'vpshufb'}{8 * self.lanes[0]}"

    @property
    def index_bits(self) -> int:
        """Bits of an index."""
        return 4 if self.entries == 16 else 6

    @property
    def group(self) -> int:
        """Activations of one group."""
        return self.index_bits // self.w_bits

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return 1 << (self.x_bits * self.group)

    @property
    def shift(self) -> int:
        """The constant added to every sum."""
        return self.group * ((1 << self.x_bits) - 1) * max(1, 1 << (self.w_bits - 1))

    @property
    def top(self) -> int:
        """Largest value in the table."""
        high = 1 if self.w_bits == 1 else (1 << (self.w_bits - 1)) - 1
        return self.shift + self.group * ((1 << self.x_bits) - 1) * high

    @property
    def steps(self) -> int:
        """Indices that share whole bytes: 2 nibbles in one byte, 4 of 6 bits in three."""
        return 2 if self.entries == 16 else 4

    @property
    def words(self) -> int:
        """Bytes that hold ``steps`` indices."""
        return 1 if self.entries == 16 else 3

    @property
    def span(self) -> int:
        """Words after which the byte sums are widened."""
        return 255 // self.top // self.steps

    def weight_values(self) -> np.ndarray:
        """int64 ``[group, entries]``: the weights that every index stands for."""
        index, bits = np.arange(self.entries), self.w_bits
        codes = np.stack([index >> (j * bits) & ((1 << bits) - 1) for j in range(self.group)])
        return 2 * codes - 1 if bits == 1 else codes - 4 * (codes >> 1)

    def emit_table(self) -> Expr:
        """Emit the table, ``[rows * entries]`` bytes."""
        table = T.alloc_buffer((i64(self.rows * self.entries),), "uint8")
        values = self.weight_values()
        with T.serial(i64(self.rows)) as row:
            total = splat("int8", self.shift, self.entries)
            for j, weights in enumerate(values):
                x = (row >> (j * self.x_bits)) & ((1 << self.x_bits) - 1)
                x = tirx.Broadcast(tirx.Cast("int8", x), self.entries)
                vector = [tirx.IntImm("int8", int(w)) for w in weights]
                total = total + x * tirx.Shuffle(vector, list(range(self.entries)))
            store(table, bits_as("uint8", self.entries, total), row * self.entries, self.entries)
        return table

    def load_row(self, table: Expr, offset: Expr, lanes: int) -> Expr:
        """The row at an offset, for a vector of ``lanes`` bytes."""
        row = load(table, offset, self.entries)
        if self.entries != 64 and lanes != 16:
            row = tirx.Shuffle([T.bind(row)] * (lanes // 16), list(range(16)) * (lanes // 16))
        return bits_as("int8", lanes, row)

    def indices(self, words: list[Expr], lanes: int) -> list[Expr]:
        """The ``steps`` vectors of indices that are packed in ``words`` (uint8 vectors)."""
        if self.entries == 16:
            high = words[0] >> splat("uint8", 4, lanes)
            found = [words[0] & splat("uint8", 15, lanes), high]
        else:  # vpermb ignores the two highest bits, which hold the fourth index
            tops = [w >> splat("uint8", 6, lanes) for w in words]
            last = tops[0] | tops[1] << splat("uint8", 2, lanes)
            found = [*words, last | tops[2] << splat("uint8", 4, lanes)]
        return [bits_as("int8", lanes, index) for index in found]

    def look_up(self, row: Expr, index: Expr, lanes: int) -> Expr:
        """One group's sums, uint8."""
        name = _SHUFFLE[self.entries, lanes]
        args = (row, index)
        return bits_as("uint8", lanes, intrinsic("int8", lanes, name, *args))

    def pack_indices(self, index: np.ndarray) -> np.ndarray:
        """uint8 ``[words * steps, lanes]`` indices → bytes ``[words, words per word, lanes]``."""
        rows = index.reshape(-1, self.steps, index.shape[-1])
        if self.entries == 16:
            return (rows[:, :1] | rows[:, 1:] << 4).astype(np.uint8)
        tops = np.stack([rows[:, 3] >> (2 * i) & 3 for i in range(3)], axis=1)
        return (rows[:, :3] | tops << 6).astype(np.uint8)


def widen(sums: Expr, total: Register, odd: Register) -> None:
    """Emit the addition of byte sums to two uint16 registers.

    ``odd`` gets the odd bytes, ``total`` whole pairs, that is even bytes + 256 * odd bytes: one
    operation less than to separate them, which :func:`spread` does in the end.
    """
    pairs = T.bind(bits_as("uint16", total.lanes, sums))
    total.set(total.get() + pairs)
    odd.set(odd.get() + (pairs >> splat("uint16", 8, total.lanes)))


def spread(total: Expr, odd: Expr, lanes: int) -> list[Expr]:
    """The four int32 vectors of ``lanes // 4`` neighbouring output channels.

    Byte ``4 * i + v`` of the sums belongs to channel ``i`` of vector ``v``.
    """
    count = lanes // 4
    even = total - (odd << splat("uint16", 8, lanes // 2))
    pairs = [bits_as("int32", count, half) for half in (even, odd)]
    low = [pair & splat("int32", 0xFFFF, count) for pair in pairs]
    high = [
        cast("int32", count, bits_as("uint32", count, pair) >> splat("uint32", 16, count))
        for pair in pairs
    ]
    return [low[0], low[1], high[0], high[1]]


def byte_order(lanes: int) -> np.ndarray:
    """Which output channel of the vector each byte belongs to, see :func:`spread`."""
    return np.arange(lanes).reshape(4, -1).T.reshape(-1)
