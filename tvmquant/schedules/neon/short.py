"""Multiply-add steps with sums of 16 and 8 bits, for values of few bits."""

from __future__ import annotations

from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.tir import Expr, Register, cast, load
from tvmquant.schedules.neon.steps import Sums, Words
from tvmquant.schedules.neon.vectors import lane, multiply_half, part, pick, wrapping


class Half(Words):
    """``mla``: sums modulo 2**16, for as many values as an int16 is proven to hold.

    Sums of ``limit`` values lie in an interval of less than 2**16 integers; what the sums start
    from moves it into int16.
    """

    name, sum_dtype, memory_dtype = "mla", "int16", "int32"

    def __init__(self, x_bits: int, w_bits: int) -> None:
        super().__init__(w_bits)
        self.w_dtype = "int16"
        most = 1 if w_bits == 1 else (1 << (w_bits - 1))
        x_max = (1 << x_bits) - 1
        self.low, self.high = -x_max * most, x_max * (1 if w_bits == 1 else most - 1)
        self.limit = 65534 // (self.high - self.low)

    def start(self, values: int) -> int:
        """What a sum of so many values starts from."""
        return -((self.high + self.low) * values // 2)

    def registers(self, pixels: int, vectors: int) -> int:
        """Sums, activations and weights."""
        return pixels * vectors + self._held(pixels, vectors)

    def instructions(self, pixels: int, vectors: int) -> float:
        """A multiplication a pixel and vector; moves to int32, spread over the values."""
        moves = 9 / self.limit * pixels * vectors
        return pixels * vectors + self._loading(pixels, vectors) + moves

    def sums(self, pixels: int, vectors: int) -> Sums:
        """One register a pixel and vector."""
        return [[[Register("int16", 8)] for _ in range(vectors)] for _ in range(pixels)]

    def piece(self, sums: Sums, xs: list[Expr], w: Expr, at: Expr, index: int) -> None:
        """One value of every pixel."""
        weights = self._weights(w, at, len(sums[0]))
        for row, x in zip(sums, xs):
            for (register,), weight in zip(row, weights):
                register.set(multiply_half(register.get(), weight, lane(x, index, 8)))

    def widened(self, sums: Sums, pixel: int) -> list[Expr]:
        """Sums of one pixel as vectors of ``memory_dtype``, with what they started from."""
        return [
            cast("int32", 4, part(register.get(), first, 4))
            for (register,) in sums[pixel]
            for first in (0, 4)
        ]


class Byte(Half):
    """``mla`` on bytes: sums modulo 2**8, moved to int16 as often as their range demands.

    The sixteen lanes are output channels, so an activation is broadcast first.
    """

    name, sum_dtype, memory_dtype = "mla8", "int8", "int16"
    x_dtype, lanes, turn = "uint8", 16, 8

    def __init__(self, x_bits: int, w_bits: int) -> None:
        super().__init__(x_bits, w_bits)
        self.w_dtype = "int8"
        self.total = self.limit
        self.limit = 254 // (self.high - self.low)

    def registers(self, pixels: int, vectors: int) -> int:
        """Sums, activations, weights and a broadcast."""
        return pixels * vectors + pixels + vectors + 2

    def instructions(self, pixels: int, vectors: int) -> float:
        """A multiplication a pixel and vector, broadcasts, loads, moves to int16."""
        moves = 5 / max(1, self.limit // self.turn * self.turn) * pixels * vectors
        return pixels * vectors + moves + vectors / 2 + 1.125 * pixels + 4 / 8

    def sums(self, pixels: int, vectors: int) -> Sums:
        """One register a pixel and vector."""
        return [[[Register("int8", 16)] for _ in range(vectors)] for _ in range(pixels)]

    def piece(self, sums: Sums, xs: list[Expr], w: Expr, at: Expr, index: int) -> None:
        """One value of every pixel."""
        weights = [T.bind(load(w, at + 16 * v, 16)) for v in range(len(sums[0]))]
        for row, x in zip(sums, xs):
            factor = T.bind(cast("int8", 16, pick(x, x, [index] * 16)))
            for (register,), weight in zip(row, weights):
                product = wrapping("mul", 8, 16, weight, factor)
                register.set(wrapping("add", 8, 16, register.get(), product))

    def widened(self, sums: Sums, pixel: int) -> list[Expr]:
        """Sums of one pixel as int16x8 vectors, with what they started from."""
        return [
            cast("int16", 8, part(register.get(), first, 8))
            for (register,) in sums[pixel]
            for first in (0, 8)
        ]
