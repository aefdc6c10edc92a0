"""Dot products of weights and signed activations, four bytes a lane."""

from __future__ import annotations

from dataclasses import dataclass

from tvmquant.schedules.linear.tir import Expr, bits_as, intrinsic, splat
from tvmquant.targets.device import Device

# Inputs of one lane of one instruction.
STEP = 4
_LARGEST_DIGIT = 128


@dataclass(frozen=True)
class ByteDot:
    """``vpdpbusd``: the products of a lane are added to an int32 sum.

    Attributes
    ----------
    lanes : int
        int32 lanes of a vector.
    registers : int
    """

    lanes: int
    registers: int
    instructions: float = 1.0

    @property
    def flush(self) -> int:
        """Steps after which int16 sums are added to the int32 ones; 0 where all are int32."""
        return 0

    def offset(self, bits: int) -> int:
        """What is added to stored weights."""
        return 2 ** (bits - 1)

    def add(self, total: Expr, weight: Expr, x: Expr) -> Expr:
        """The sum after one step; ``weight`` and ``x`` are int32 words of four bytes."""
        name = f"llvm.x86.avx512.vpdpbusd.{32 * self.lanes}"
        return intrinsic("int32", self.lanes, name, total, *self._bytes(weight, x))

    def widen(self, pairs: Expr) -> Expr:
        """int16 sums of a set with ``flush``, added in pairs to int32."""
        raise NotImplementedError

    def _bytes(self, weight: Expr, x: Expr) -> tuple[Expr, Expr]:
        count = STEP * self.lanes
        return bits_as("uint8", count, weight), bits_as("int8", count, x)


@dataclass(frozen=True)
class PairDot(ByteDot):
    """``vpmaddubsw``: narrow weights leave room for many steps in int16 sums."""

    bits: int = 4
    instructions: float = 2.1

    @property
    def flush(self) -> int:
        """Steps whose sums of two products each stay within int16."""
        return 32767 // (2 * (2**self.bits - 1) * _LARGEST_DIGIT)

    def add(self, total: Expr, weight: Expr, x: Expr) -> Expr:
        """The int16 sums after one step."""
        name = "llvm.x86.avx2.pmadd.ub.sw"
        return total + intrinsic("int16", 2 * self.lanes, name, *self._bytes(weight, x))

    def widen(self, pairs: Expr) -> Expr:
        """int16 sums, added in pairs."""
        ones = splat("int16", 1, 2 * self.lanes)
        return intrinsic("int32", self.lanes, "llvm.x86.avx2.pmadd.wd", pairs, ones)


@dataclass(frozen=True)
class ArmDot(ByteDot):
    """``sdot``, both factors signed."""

    def offset(self, bits: int) -> int:
        """What is added to stored weights: narrow ones are easier to unpack as positive codes."""
        return 0 if bits == 8 else 2 ** (bits - 1)

    def add(self, total: Expr, weight: Expr, x: Expr) -> Expr:
        """The sum after one step."""
        count = STEP * self.lanes
        factors = (bits_as("int8", count, value) for value in (weight, x))
        name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
        return intrinsic("int32", self.lanes, name, total, *factors)


def byte_dot(device: Device, outputs: int, bits: int) -> ByteDot | None:
    """What a device offers for weights of ``bits`` bits and so many output channels."""
    if device.isa == "avx512_vnni":
        return ByteDot(next((n for n in (16, 8) if n <= outputs), 4), 32)
    if device.isa == "avx_vnni":
        return ByteDot(8 if outputs >= 8 else 4, 16)
    if device.isa in ("neon_dotprod", "neon_i8mm"):
        return ArmDot(4, 32)
    if device.isa == "avx2" and bits < 8:
        return PairDot(8, 16, bits=bits)
    return None
