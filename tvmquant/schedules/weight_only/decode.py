"""Stored weights → float32 vectors, one lane an output channel.

A 32-bit word of a lane holds consecutive inputs of its output channel. Where a permutation can
look up a whole vector (16 lanes for 4 bits, 8 for 2) the shifted word itself is the index, because
the instruction ignores the higher bits: one shift and one permutation a vector. Elsewhere two
shifts extend the sign and a conversion follows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.tir import Expr, cast, intrinsic, splat
from tvmquant.targets.device import Device

_PERMUTE = {16: "llvm.x86.avx512.permvar.sf.512", 8: "llvm.x86.avx2.permps"}
_WORD = 32


@dataclass(frozen=True)
class Decoder:
    """How weights of ``bits`` bits are stored and read.

    Attributes
    ----------
    bits : int
        8, 4 or 2.
    lanes : int
        float32 lanes of a vector.
    table : bool
        Whether a permutation does the conversion.
    """

    bits: int
    lanes: int
    table: bool

    @classmethod
    def of(cls, bits: int, lanes: int, device: Device) -> Decoder:
        """The cheapest way of a device."""
        feature = {16: "avx512f", 8: "avx2"}.get(lanes)
        fits = bits < 8 and lanes >= 2**bits
        return cls(bits, lanes, fits and feature in device.features)

    @property
    def dtype(self) -> str:
        """Type of the stored array: whole words, or bytes for 8 bits."""
        return "int8" if self.bits == 8 else "int32"

    @property
    def per_word(self) -> int:
        """Weights of one element of the stored array."""
        return 1 if self.bits == 8 else _WORD // self.bits

    def encode(self, groups: np.ndarray) -> np.ndarray:
        """Pack int8 weights along the last axis, which is padded to whole words."""
        if self.bits == 8:
            return groups.astype(np.int8)
        pad = -groups.shape[-1] % self.per_word
        codes = np.pad(groups, [(0, 0)] * (groups.ndim - 1) + [(0, pad)]).astype(np.int64)
        # Tables are indexed from the least weight.
        codes = codes + 2 ** (self.bits - 1) if self.table else codes
        codes = codes & (2**self.bits - 1)
        parts = codes.reshape(*codes.shape[:-1], -1, self.per_word)
        words = (parts << (np.arange(self.per_word) * self.bits)).sum(-1)
        return words.astype(np.uint32).view(np.int32)

    def values(self) -> Expr | None:
        """The table, to be bound once outside the loops."""
        if not self.table:
            return None
        index = tirx.Ramp(tirx.IntImm("int32", 0), tirx.IntImm("int32", 1), self.lanes)
        mask = splat("int32", 2**self.bits - 1, self.lanes)
        half = splat("int32", 2 ** (self.bits - 1), self.lanes)
        return T.bind(cast("float32", self.lanes, (index & mask) - half))

    def decode(self, word: Expr, position: int, table: Expr | None) -> Expr:
        """float32 weights number ``position`` of a vector of words."""
        if self.bits == 8:
            return cast("float32", self.lanes, word)
        if table is not None:
            shift = splat("int32", position * self.bits, self.lanes)
            index = word >> shift if position else word
            return intrinsic("float32", self.lanes, _PERMUTE[self.lanes], table, index)
        up = splat("int32", _WORD - (position + 1) * self.bits, self.lanes)
        down = splat("int32", _WORD - self.bits, self.lanes)
        return cast("float32", self.lanes, (word << up) >> down)
