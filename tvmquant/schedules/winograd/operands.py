"""The multiply-add steps: int16 operands in pairs, or bytes in fours.

One step multiplies ``step`` neighbouring channels of one transformed tile with as many weights of
each of ``lanes`` output channels. Sums wrap modulo 2**32.
"""

from __future__ import annotations

from tvmquant.schedules.linear.tir import Expr, bits_as, broadcast, intrinsic, load, splat
from tvmquant.schedules.winograd.values import wrapping
from tvmquant.targets.device import Device

_PMADDWD = {16: "llvm.x86.avx512.pmaddw.d.512", 8: "llvm.x86.avx2.pmadd.wd"}
_PMADDUBSW = {16: "llvm.x86.avx512.pmaddubs.w.512", 8: "llvm.x86.avx2.pmadd.ub.sw"}
_MAX_FLUSH = 4


def instruction_set(device: Device) -> str | None:
    """``avx512_vnni``, ``avx512bw``, ``avx_vnni``, ``avx2``, or None where there is no step."""
    if device.isa == "avx2" and {"avx512bw", "avx512vl"} <= device.features:
        return "avx512bw"
    return None if device.isa == "generic" else device.isa


class Operands:
    """int16 operands.

    Attributes
    ----------
    name : str
    isa : str
        See :func:`instruction_set`.
    dtype, x_dtype : str
        Of the transformed weights and activations.
    step : int
        Channels that one step multiplies.
    flush : int
        Steps whose sums are added before they are widened to int32.
    lanes : int
        int32 lanes of a vector.
    registers, scratch : int
        Vector registers, and how many of them the steps need for themselves.
    instructions : float
        Instructions of one step.
    """

    name = "words"
    dtype = x_dtype = "int16"
    step = 2

    def __init__(self, isa: str, flush: int = 1) -> None:
        self.isa = isa
        self.vnni = isa.endswith("vnni")
        self.flush = flush
        wide = isa.startswith("avx512")
        self.lanes, self.registers = (16, 32) if wide else (8, 16)
        self.scratch = 1 if self.vnni else 2
        self.instructions = 1.0 if self.vnni else 2.0

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


class Bytes(Operands):
    """uint8 activations, made unsigned by an offset, and int8 weights."""

    name = "bytes"
    dtype, x_dtype = "int8", "uint8"
    step = 4

    def __init__(self, isa: str, pair_sum: int) -> None:
        """``pair_sum`` is the largest magnitude of a sum of two products."""
        vnni = isa.endswith("vnni")
        flush = 1 if vnni else _MAX_FLUSH
        while flush > 1 and flush * pair_sum > 32767:
            flush //= 2
        super().__init__(isa, flush)
        if not vnni:
            self.scratch = 3
            # Multiply, add in 16 bits; widen and add once for all.
            self.instructions = (2 * flush + 1) / flush

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
