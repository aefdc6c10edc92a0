"""Multiply-accumulate steps of depthwise kernels, one class an instruction set.

Depthwise sums never mix channels, so a dot-product instruction needs the values of one channel
at several input lines side by side. :meth:`Dot.interleave` brings a slot of lines into that
order, channels end up permuted among the accumulators, and :meth:`Dot.pack` undoes that while it
narrows the results to bytes. All steps are exact; sums wrap modulo 2**32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import tirx

from tvmquant.schedules.linear.tir import bits_as, broadcast, cast, intrinsic, splat

Expr = Any


class Dot:
    """Portable code: one line a slot, multiplied in 16 and added in 32 bits.

    Attributes
    ----------
    width : int
        Channels of a block.
    group : int
        Lines of a slot.
    parts : int
        Accumulator vectors of a block, each of ``lanes`` channels.
    operands : int
        Vectors in which one part of a slot of weights is stored.
    x_dtype, w_dtype : str
        Element types of stored slots.
    x_vector, w_vector : int
        Elements of one part of a stored slot, per operand for the weights.
    clamps_low : bool
        Whether :meth:`round` takes values of any magnitude below zero (as something very
        negative) and :meth:`pack` applies the lower clamp.
    """

    group = 1
    parts = 1
    operands = 1
    x_dtype = "int16"
    w_dtype = "int16"
    clamps_low = False

    def __init__(self, width: int) -> None:
        self.width = width
        self.lanes = width // self.parts
        self.x_vector = self.w_vector = self.lanes

    def channel_order(self) -> np.ndarray:
        """int64 ``[parts * lanes]``: channel of the block in every accumulator lane."""
        return np.arange(self.width)

    def pad_value(self, zero_point: Expr) -> Expr:
        """``zero_point`` (uint8 scalar) in every element of one part of a stored slot."""
        return broadcast(tirx.Cast(self.x_dtype, zero_point), self.x_vector)

    def interleave(self, lines: list[Expr]) -> list[Expr]:
        """Bring ``group`` uint8 vectors of ``width`` channels into stored order, one a part."""
        return [cast("int16", self.width, lines[0])]

    def interleave_weights(self, lines: list[Expr]) -> list[list[Expr]]:
        """The same for int8 weights: ``parts`` lists of ``operands`` vectors."""
        return [[cast("int16", self.width, lines[0])]]

    def needed(self, kernel_rows: tuple[int | None, ...]) -> list[bool]:
        """Which operands are not all zero where lines meet these rows of the kernel."""
        return [True] * self.operands

    def prepare(self, x: Expr) -> list[Expr]:
        """Turn a stored part of a slot into what :meth:`dot` takes."""
        return [cast("int32", self.lanes, x)]

    def dot(self, acc: Expr, x: list[Expr], w: list[Expr | None]) -> Expr:
        """Accumulate one slot; operands that are not needed are None."""
        return acc + x[0] * cast("int32", self.lanes, w[0])

    def round(self, value: Expr) -> Expr:
        """float32 → int32, half to even, for magnitudes below 2**22."""
        # Adding 1.5 * 2**23 leaves the rounded integer in the low bits. A clamp stands between
        # the product and this addition, so they cannot contract.
        magic = 12582912.0
        biased = value + splat("float32", magic, self.lanes)
        bits = bits_as("int32", self.lanes, biased)
        return bits - splat("int32", int(np.float32(magic).view(np.int32)), self.lanes)

    def pack(self, parts: list[Expr], zero_point: Expr, low: Expr) -> Expr:
        """Add the zero point and narrow: uint8 vector in channel order.

        Parameters
        ----------
        parts : list of Expr
            int32 results without zero point, clamped (with ``clamps_low`` only from above).
        zero_point, low : Expr
            int32 scalars.
        """
        return cast("uint8", self.lanes, parts[0] + broadcast(zero_point, self.lanes))


class _Quads(Dot):
    """x86: four lines a slot, interleaved by byte and word unpacks within 128-bit lanes."""

    group = 4
    parts = 4
    x_dtype = "uint8"
    w_dtype = "int8"
    clamps_low = True

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.x_vector = self.w_vector = width

    def channel_order(self) -> np.ndarray:
        # Lane 4 k + i of part p holds channel 16 k + 4 p + i.
        order = np.arange(self.width).reshape(-1, self.parts, 4)
        return order.transpose(1, 0, 2).reshape(-1)

    def interleave(self, lines: list[Expr]) -> list[Expr]:
        first, second = self._unpack(lines[0], lines[1], 1), self._unpack(lines[2], lines[3], 1)
        return [part for a, b in zip(first, second) for part in self._unpack(a, b, 2)]

    def interleave_weights(self, lines: list[Expr]) -> list[list[Expr]]:
        return [[part] for part in self.interleave(lines)]

    def _unpack(self, a: Expr, b: Expr, unit: int) -> tuple[Expr, Expr]:
        """``vpunpckl`` and ``vpunpckh`` of elements of ``unit`` bytes."""
        halves = []
        for half in (0, 8):
            index = [
                base + half + i + part
                for base in range(0, self.width, 16)
                for i in range(0, 8, unit)
                for source in (0, self.width)
                for part in range(source, source + unit)
            ]
            halves.append(tirx.Shuffle([a, b], index))
        return halves[0], halves[1]

    def prepare(self, x: Expr) -> list[Expr]:
        return [x]

    def round(self, value: Expr) -> Expr:
        lanes = self.lanes
        if lanes == 16:
            mask = bits_as("uint16", 1, tirx.IntImm("int16", -1))
            nearest = tirx.IntImm("int32", 4)  # the processor's rounding mode
            name = "llvm.x86.avx512.mask.cvtps2dq.512"
            return intrinsic("int32", 16, name, value, splat("int32", 0, 16), mask, nearest)
        name = {8: "llvm.x86.avx.cvt.ps2dq.256", 4: "llvm.x86.sse2.cvtps2dq"}[lanes]
        return intrinsic("int32", lanes, name, value)

    def pack(self, parts: list[Expr], zero_point: Expr, low: Expr) -> Expr:
        width = self.width
        words = _by_width(width, "llvm.x86.sse2.packssdw.128", "packssdw")
        bytes_ = _by_width(width, "llvm.x86.sse2.packuswb.128", "packuswb")
        zero = broadcast(tirx.Cast("int16", zero_point), width // 2)
        halves = [
            intrinsic("int16", width // 2, words, parts[i], parts[i + 1]) + zero for i in (0, 2)
        ]
        packed = intrinsic("uint8", width, bytes_, *halves)
        # Both packs saturate, so whatever was too small is 0 by now.
        return tirx.max(packed, broadcast(tirx.Cast("uint8", low), width))


def _by_width(width: int, narrow: str, name: str) -> str:
    """Name of an intrinsic that exists for 128, 256 and 512 bits."""
    wide = {32: f"llvm.x86.avx2.{name}", 64: f"llvm.x86.avx512.{name}.512"}
    return narrow if width == 16 else wide[width]


class VnniQuads(_Quads):
    """``vpdpbusd``: four products and their sum in one instruction."""

    def dot(self, acc: Expr, x: list[Expr], w: list[Expr | None]) -> Expr:
        """One instruction."""
        name = f"llvm.x86.avx512.vpdpbusd.{8 * self.width}"
        return intrinsic("int32", self.lanes, name, acc, x[0], w[0])


class WordQuads(_Quads):
    """``vpmaddwd`` on the even and the odd bytes, widened: exact for any 8-bit weights.

    Lines are stored in the order 0, 2, 1, 3: the even bytes hold the first two.
    """

    operands = 2
    w_dtype = "int16"

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.w_vector = width // 2

    def interleave(self, lines: list[Expr]) -> list[Expr]:
        """As in the other x86 steps, lines 1 and 2 swapped."""
        return super().interleave([lines[i] for i in (0, 2, 1, 3)])

    def needed(self, kernel_rows: tuple[int | None, ...]) -> list[bool]:
        """Even bytes, odd bytes."""
        return [any(row is not None for row in kernel_rows[i : i + 2]) for i in (0, 2)]

    def interleave_weights(self, lines: list[Expr]) -> list[list[Expr]]:
        """Even and odd bytes, sign-extended."""
        eight = splat("int16", 8, self.w_vector)
        words = [bits_as("int16", self.w_vector, part) for part in self.interleave(lines)]
        return [[(word << eight) >> eight, word >> eight] for word in words]

    def prepare(self, x: Expr) -> list[Expr]:
        """Even and odd bytes, zero-extended."""
        words = bits_as("uint16", self.w_vector, x)
        pair = (
            words & splat("uint16", 255, self.w_vector),
            words >> splat("uint16", 8, self.w_vector),
        )
        return [bits_as("int16", self.w_vector, half) for half in pair]

    def dot(self, acc: Expr, x: list[Expr], w: list[Expr | None]) -> Expr:
        """One multiplication and one addition an operand."""
        name = _by_width(self.width, "llvm.x86.sse2.pmadd.wd", "pmadd.wd")
        for a, b in zip(x, w):
            if b is not None:
                acc = acc + intrinsic("int32", self.lanes, name, a, b)
        return acc


class ByteQuads(_Quads):
    """``vpmaddubsw``, where no pair of products can leave int16."""

    def dot(self, acc: Expr, x: list[Expr], w: list[Expr | None]) -> Expr:
        """Products of pairs in 16 bits, then their sums in 32."""
        width = self.width
        name = _by_width(width, "llvm.x86.ssse3.pmadd.ub.sw.128", "pmadd.ub.sw")
        pairs = intrinsic("int16", width // 2, name, x[0], w[0])
        name = _by_width(width, "llvm.x86.sse2.pmadd.wd", "pmadd.wd")
        return acc + intrinsic("int32", self.lanes, name, pairs, splat("int16", 1, width // 2))


_WIDTHS = {"avx512_vnni": (64, 32, 16), "avx_vnni": (32, 16), "avx2": (32, 16)}


def dot_class(isa: str, x_bits: int, w_bits: int) -> tuple[type[Dot], tuple[int, ...]]:
    """The step for ``Device.isa`` and the channel block widths it offers, descending."""
    if isa not in _WIDTHS:
        return Dot, (16,)
    if isa != "avx2":
        return VnniQuads, _WIDTHS[isa]
    largest = 1 if w_bits == 1 else 1 << (w_bits - 1)
    exact = 2 * ((1 << x_bits) - 1) * largest < 1 << 15
    return (ByteQuads if exact else WordQuads), _WIDTHS[isa]
