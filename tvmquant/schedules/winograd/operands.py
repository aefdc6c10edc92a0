"""The multiply-add steps: int16 operands in pairs, or bytes in fours.

One step multiplies ``step`` neighbouring channels of one transformed tile with as many weights of
each of ``lanes`` output channels. Sums wrap modulo 2**32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tvmquant.schedules.linear.tir import Expr, bits_as, broadcast, intrinsic, load, splat
from tvmquant.schedules.winograd.values import wrapping
from tvmquant.targets.device import Device

_PMADDWD = {16: "llvm.x86.avx512.pmaddw.d.512", 8: "llvm.x86.avx2.pmadd.wd"}
_PMADDUBSW = {16: "llvm.x86.avx512.pmaddubs.w.512", 8: "llvm.x86.avx2.pmadd.ub.sw"}
_FLUSHES = (4, 2, 1)


def instruction_set(device: Device) -> str | None:
    """``avx512_vnni``, ``avx512bw``, ``avx_vnni``, ``avx2``, or None where there is no step."""
    if device.isa == "avx2" and {"avx512bw", "avx512vl"} <= device.features:
        return "avx512bw"
    return device.isa if device.isa in ("avx512_vnni", "avx_vnni", "avx2") else None


@dataclass(frozen=True)
class Operands:
    """int16 operands.

    Attributes
    ----------
    isa : str
        See :func:`instruction_set`.
    flush : int
        Steps whose sums are added before they are widened to int32.
    name : str
    dtype, x_dtype : str
        Of the transformed weights and activations.
    step : int
        Channels that one step multiplies.
    """

    isa: str
    flush: int = 1

    name: ClassVar[str] = "words"
    dtype: ClassVar[str] = "int16"
    x_dtype: ClassVar[str] = "int16"
    step: ClassVar[int] = 2

    @property
    def vnni(self) -> bool:
        """Whether one instruction multiplies and accumulates."""
        return self.isa.endswith("vnni")

    @property
    def wide(self) -> bool:
        """Whether vectors have 512 bits and there are 32 of them, else 256 bits and 16."""
        return self.isa.startswith("avx512")

    @property
    def lanes(self) -> int:
        """int32 lanes of a vector."""
        return 16 if self.wide else 8

    @property
    def registers(self) -> int:
        """Vector registers."""
        return 32 if self.wide else 16

    @property
    def scratch(self) -> int:
        """Registers that the steps need for themselves."""
        return 1 if self.vnni else 2

    @property
    def cycles(self) -> float:
        """Cycles of a step: two multiplications or three vector operations of any kind in one."""
        return 1 / 2 if self.vnni else 2 / 3

    @property
    def unit(self) -> int:
        """Channels of one turn of the inner loop."""
        return self.step * self.flush

    @property
    def width(self) -> int:
        """Elements of a vector of operands."""
        return self.lanes * self.step

    def load_x(self, buffer: Expr, offset: Expr) -> Expr:
        """``step`` activations, repeated in every lane."""
        bits = bits_as("int32", 1, load(buffer, offset, self.step))
        return bits_as(self.x_dtype, self.width, broadcast(bits, self.lanes))

    def dot(self, acc: Expr, x: list[Expr], w: list[Expr]) -> Expr:
        """int32 accumulators after ``flush`` steps."""
        if self.vnni:
            name = f"llvm.x86.avx512.vpdpwssd.{32 * self.lanes}"
            return intrinsic("int32", self.lanes, name, acc, x[0], w[0])
        product = intrinsic("int32", self.lanes, _PMADDWD[self.lanes], x[0], w[0])
        return wrapping("add", self.lanes, acc, product)


@dataclass(frozen=True)
class Bytes(Operands):
    """uint8 activations, made unsigned by an offset, and int8 weights."""

    name: ClassVar[str] = "bytes"
    dtype: ClassVar[str] = "int8"
    x_dtype: ClassVar[str] = "uint8"
    step: ClassVar[int] = 4

    @property
    def scratch(self) -> int:
        """Registers that the steps need for themselves."""
        return 1 if self.vnni else 3

    @property
    def cycles(self) -> float:
        """Cycles of a step: as for words; widening and adding is shared by ``flush`` steps."""
        if self.vnni:
            return 1 / 2
        return max((self.flush + 1) / 2, (2 * self.flush + 1) / 3) / self.flush

    def dot(self, acc: Expr, x: list[Expr], w: list[Expr]) -> Expr:
        """int32 accumulators after ``flush`` steps."""
        if self.vnni:
            name = f"llvm.x86.avx512.vpdpbusd.{32 * self.lanes}"
            return intrinsic("int32", self.lanes, name, acc, x[0], w[0])
        pairs = None
        for a, b in zip(x, w):
            product = intrinsic("int16", 2 * self.lanes, _PMADDUBSW[self.lanes], a, b)
            pairs = product if pairs is None else pairs + product
        ones = splat("int16", 1, 2 * self.lanes)
        sums = intrinsic("int32", self.lanes, _PMADDWD[self.lanes], pairs, ones)
        return wrapping("add", self.lanes, acc, sums)


def byte_operands(isa: str, pair_sum: int) -> Bytes | None:
    """Byte operands, None where a sum of two products could saturate.

    Parameters
    ----------
    isa : str
    pair_sum : int
        Largest magnitude of such a sum.
    """
    if isa.endswith("vnni"):
        return Bytes(isa)
    fitting = [flush for flush in _FLUSHES if flush * pair_sum < 1 << 15]
    return Bytes(isa, fitting[0]) if fitting else None
