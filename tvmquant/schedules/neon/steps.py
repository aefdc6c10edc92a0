"""The multiply-add steps of the direct kernels.

Registers of activations hold 16 bytes of one pixel's run (:class:`Matrix`: 8 bytes of each of two
pixels); registers of weights hold several output channels. A *turn* uses one register of
activations of every pixel. All sums wrap modulo 2**32, or 2**16 where that is proven enough.
"""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.tir import Expr, Register, cast, load
from tvmquant.schedules.neon.vectors import (
    dot,
    lane,
    matrix,
    multiply_long,
    part,
    pick,
)

Sums = list[list[list[Register]]]


class Step:
    """What the generator must know of a step.

    Attributes
    ----------
    name : str
    x_dtype : str
        Of the workspace, see :class:`tvmquant.schedules.neon.source.Source`.
    w_dtype : str
        Of the weights in memory while the kernel runs.
    lanes : int
        Output channels of a vector.
    depth : int
        Values of a pixel that one piece multiplies; a run is padded to a multiple of it.
    turn : int
        Weights of an output channel in one turn, several pieces.
    x_turn : int
        Elements of the workspace in one turn, as many if not said otherwise.
    pixels : int
        A tile's number of pixels is a multiple of this.
    limit : int
        Values that a sum may add before it is moved to int32; 0 for no limit.
    sum_dtype : str
        Of the accumulators.
    negative : bool
        Whether sums start from zero and are subtracted from the bias, else they start from it.
    """

    name: str
    x_dtype: str
    w_dtype: str = "int8"
    lanes: int
    depth: int
    turn: int
    pixels: int = 1
    limit: int = 0
    sum_dtype: str = "int32"
    negative: bool = False

    def __init__(self, w_bits: int = 8) -> None:
        self.w_bits = w_bits

    @property
    def x_turn(self) -> int:
        """Elements of the workspace in one turn."""
        return self.turn

    def registers(self, pixels: int, vectors: int) -> int:
        """Vector registers that a tile needs."""
        raise NotImplementedError

    def instructions(self, pixels: int, vectors: int) -> float:
        """Instructions of a tile that multiplies one value of every pixel."""
        raise NotImplementedError

    def sums(self, pixels: int, vectors: int) -> Sums:
        """Accumulators ``[pixel][vector][…]``."""
        raise NotImplementedError

    def results(self, sums: Sums, pixel: int) -> list[Expr]:
        """int32x4 vectors of the channels of one pixel."""
        return [register.get() for vector in sums[pixel] for register in vector]

    def values(self, x: Expr, offsets: list[Expr]) -> list[Expr]:
        """Registers of activations of all pixels."""
        return [T.bind(load(x, at, self.x_turn)) for at in offsets]

    def piece(self, sums: Sums, xs: list[Expr], w: Expr, at: Expr, index: int) -> None:
        """Emit piece ``index`` of a turn with the weights at ``at``."""
        raise NotImplementedError


class Dot(Step):
    """``sdot``: four products of int8 a lane."""

    name, x_dtype, lanes, depth, turn = "sdot", "int8", 4, 4, 16

    def registers(self, pixels: int, vectors: int) -> int:
        """Sums, activations, and what is loaded ahead."""
        return pixels * vectors + pixels + 5

    def instructions(self, pixels: int, vectors: int) -> float:
        """Multiplications, half a load a weight vector, a sixteenth a pixel, the loop."""
        return (pixels * vectors + vectors / 2) / 4 + pixels / 16 + 4 / 16

    def sums(self, pixels: int, vectors: int) -> Sums:
        """One register a pixel and vector."""
        return [[[Register("int32", 4)] for _ in range(vectors)] for _ in range(pixels)]

    def piece(self, sums: Sums, xs: list[Expr], w: Expr, at: Expr, index: int) -> None:
        """Four values of every pixel."""
        weights = [T.bind(load(w, at + 16 * v, 16)) for v in range(len(sums[0]))]
        for row, x in zip(sums, xs):
            for (register,), weight in zip(row, weights):
                register.set(dot(register.get(), weight, x, index))


class Matrix(Step):
    """``usmmla``: two pixels times two channels, eight products each."""

    name, x_dtype, lanes, depth, turn, pixels = "usmmla", "uint8", 4, 8, 16, 2

    def registers(self, pixels: int, vectors: int) -> int:
        """Sums, activations, and what is loaded ahead."""
        return pixels * vectors + pixels + 5

    def instructions(self, pixels: int, vectors: int) -> float:
        """Multiplications, a load a channel pair's weights, loads and shuffles, the loop."""
        return (pixels * vectors + vectors) / 8 + 2 * pixels / 16 + 4 / 16

    def sums(self, pixels: int, vectors: int) -> Sums:
        """Two registers a *pair* of pixels and vector."""
        count = pixels // 2
        return [
            [[Register("int32", 4) for _ in "ab"] for _ in range(vectors)] for _ in range(count)
        ]

    def results(self, sums: Sums, pixel: int) -> list[Expr]:
        """Rows of the pairs' matrices."""
        order = [0, 1, 4, 5] if pixel % 2 == 0 else [2, 3, 6, 7]
        return [pick(a.get(), b.get(), order) for a, b in sums[pixel // 2]]

    def values(self, x: Expr, offsets: list[Expr]) -> list[Expr]:
        """For every pair of pixels the first and the last eight values of both."""
        whole = super().values(x, offsets)
        halves = [[*range(start, start + 8), *range(16 + start, 24 + start)] for start in (0, 8)]
        pairs = list(zip(whole[::2], whole[1::2]))
        return [[T.bind(pick(a, b, half)) for half in halves] for a, b in pairs]

    def piece(self, sums: Sums, xs: list[Any], w: Expr, at: Expr, index: int) -> None:
        """Eight values of every pixel."""
        count = len(sums[0])
        weights = [
            [T.bind(load(w, at + 32 * v + 16 * i, 16)) for i in range(2)] for v in range(count)
        ]
        for row, x in zip(sums, xs):
            for registers, pair in zip(row, weights):
                for register, weight in zip(registers, pair):
                    register.set(matrix(register.get(), x[index], weight))


class Words(Step):
    """Activations and weights as int16, eight channels a vector."""

    x_dtype, lanes, depth, turn = "int16", 8, 1, 8

    def __init__(self, w_bits: int = 8, wide: bool = False) -> None:
        super().__init__(w_bits)
        self.w_dtype = "int16" if wide or w_bits < 8 else "int8"

    def _weights(self, w: Expr, at: Expr, vectors: int) -> list[Expr]:
        if self.w_dtype == "int16":
            return [T.bind(load(w, at + 8 * v, 8)) for v in range(vectors)]
        found = []
        for v in range(0, vectors - 1, 2):
            both = T.bind(load(w, at + 8 * v, 16))
            found += [T.bind(cast("int16", 8, part(both, start, 8))) for start in (0, 8)]
        if vectors % 2:
            found.append(T.bind(cast("int16", 8, load(w, at + 8 * (vectors - 1), 8))))
        return found

    def _held(self, pixels: int, vectors: int) -> int:
        """Registers besides the sums: only sixteen can be multiplied by one of their lanes."""
        return pixels + vectors + (0 if pixels <= 8 else 32)

    def _loading(self, pixels: int, vectors: int) -> float:
        weights = vectors / 2 if self.w_dtype == "int16" else 1.5 * vectors
        return weights + pixels / 8 + 4 / 8


class Long(Words):
    """``smlal``: exact for any values.

    Parameters
    ----------
    w_bits : int
    wide : bool
        Whether weights of 8 bits are widened at load time instead of in every tile.
    """

    name = "smlal"

    def registers(self, pixels: int, vectors: int) -> int:
        """Sums, activations and weights."""
        return 2 * pixels * vectors + self._held(pixels, vectors)

    def instructions(self, pixels: int, vectors: int) -> float:
        """Two multiplications a pixel and vector."""
        return 2 * pixels * vectors + self._loading(pixels, vectors)

    def sums(self, pixels: int, vectors: int) -> Sums:
        """Two registers a pixel and vector."""
        return [
            [[Register("int32", 4) for _ in "lh"] for _ in range(vectors)] for _ in range(pixels)
        ]

    def piece(self, sums: Sums, xs: list[Expr], w: Expr, at: Expr, index: int) -> None:
        """One value of every pixel."""
        weights = self._weights(w, at, len(sums[0]))
        for row, x in zip(sums, xs):
            for registers, weight in zip(row, weights):
                for register, start in zip(registers, (0, 4)):
                    factor = lane(x, index, 4)
                    register.set(multiply_long(register.get(), part(weight, start, 4), factor))
