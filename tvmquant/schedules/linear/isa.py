"""The multiply-add step of every instruction set.

One step multiplies ``step`` consecutive activations of a pixel with as many weights of each of
``lanes`` output channels and adds the products to ``lanes`` int32 accumulators. All of them are
exact: no intermediate saturates, sums wrap modulo 2**32.

Sub-byte weights arrive as one register that holds the same step-sized piece of ``8 // bits``
successive steps, the first in the highest bits of every byte; :meth:`InstructionSet.unpack`
takes the topmost piece and the generator shifts the register left by ``bits`` for the next.
"""

from __future__ import annotations

from tvm import tirx

from tvmquant.schedules.linear.tir import Expr, bits_as, broadcast, cast, intrinsic, load, splat


def _repeat_byte(value: int) -> int:
    """int32 whose four bytes are ``value``."""
    word = value * 0x01010101
    return word - (1 << 32) if word >= 1 << 31 else word


class InstructionSet:
    """Portable code: one activation a step, both factors widened from int16 to int32.

    Attributes
    ----------
    name : str
    lanes : tuple of int
        Vector widths in int32 lanes, widest first; the last is 4.
    step : int
        Activations that one step multiplies.
    x_dtype : str
        Type in which activations are read.
    packed_dtype : str
        Element type of a register of sub-byte weights, one element a lane.
    registers : int
        Vector registers that a tile may use.
    scratch : int
        Registers that the multiply-add step itself needs.
    flush : int
        Steps after which int16 sums are added to the int32 accumulators; 0 where every step adds
        to int32 at once.
    multiplies, weight_cost : int
        Multiplications of one step, and loads that one weight vector is worth (for the model
        that chooses tiles).
    rolled : bool
        Whether the loop over the steps must be kept from being unrolled, see ``emit``.
    x86 : bool
        Whether the epilogue may use the x86 pack and convert instructions.
    """

    name: str = "generic"
    lanes: tuple[int, ...] = (8, 4)
    step: int = 1
    x_dtype: str = "uint8"
    packed_dtype: str = "int16"
    registers: int = 16
    scratch: int = 1
    flush: int = 0
    multiplies: int = 1
    weight_cost: int = 2
    rolled: bool = True
    x86: bool = False

    def scale_shift(self, bits: int) -> int:
        """Unpacked weights are ``2**shift`` times too large, so the accumulator is too."""
        return 0

    def load_x(self, x: Expr, offset: Expr) -> Expr:
        """The ``step`` activations at ``offset`` as one scalar."""
        return tirx.Cast("int16", x[offset])

    def load_weight(self, w: Expr, offset: Expr, lanes: int) -> Expr:
        """Whole-byte weights in the form that :meth:`dot` takes."""
        return cast("int16", lanes, load(w, offset, lanes))

    def load_packed(self, w: Expr, offset: Expr, lanes: int) -> Expr:
        """Sub-byte weights as one register of ``packed_dtype``, see the module's text."""
        return cast("int16", lanes, load(w, offset, lanes)) << splat("int16", 8, lanes)

    def unpack(self, packed: Expr, bits: int, lanes: int) -> Expr:
        """Weights of the topmost piece of ``packed`` in the form that :meth:`dot` takes."""
        if bits == 1:
            return (packed >> splat("int16", 15, lanes)) | splat("int16", 1, lanes)
        return packed >> splat("int16", 16 - bits, lanes)

    def dot(self, acc: Expr, x: Expr, w: Expr, lanes: int) -> Expr:
        """Accumulator after one step; with ``flush`` it is an int16 sum of ``2 * lanes``."""
        return acc + cast("int32", lanes, broadcast(x, lanes)) * cast("int32", lanes, w)

    def widen(self, pairs: Expr, lanes: int) -> Expr:
        """int16 sums of a set with ``flush``, added in pairs to int32."""
        raise NotImplementedError


class _X86(InstructionSet):
    """Four bytes a step."""

    step = 4
    packed_dtype = "int32"
    x86 = True
    weight_cost = 1

    def load_x(self, x: Expr, offset: Expr) -> Expr:
        """The ``step`` activations at ``offset`` as one int32."""
        return bits_as("int32", 1, load(x, offset, self.step))

    def load_weight(self, w: Expr, offset: Expr, lanes: int) -> Expr:
        """Whole-byte weights."""
        return load(w, offset, lanes * self.step)

    def load_packed(self, w: Expr, offset: Expr, lanes: int) -> Expr:
        """Sub-byte weights, a step-sized piece of each of several steps."""
        return bits_as("int32", lanes, load(w, offset, lanes * self.step))


class Vnni(_X86):
    """``vpdpbusd``: uint8 × int8 → int32, four products a lane."""

    scratch = 1
    rolled = False

    def __init__(self, wide: bool) -> None:
        self.name = "avx512_vnni" if wide else "avx_vnni"
        self.lanes = (16, 8, 4) if wide else (8, 4)
        self.registers = 32 if wide else 16

    def scale_shift(self, bits: int) -> int:
        """Bits by which the weights were left too large."""
        return {8: 0, 4: 4, 2: 6, 1: 6}[bits]

    def unpack(self, packed: Expr, bits: int, lanes: int) -> Expr:
        """Weights of the topmost piece."""
        # The sign bits stay where they are: two logic operations less than a shift down.
        mask = _repeat_byte(256 - (1 << (8 - bits)))
        w = packed & splat("int32", mask, lanes)
        if bits == 1:
            w = w | splat("int32", _repeat_byte(0x40), lanes)
        return bits_as("int8", 4 * lanes, w)

    def dot(self, acc: Expr, x: Expr, w: Expr, lanes: int) -> Expr:
        """Accumulator after one step."""
        name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
        xs = bits_as("uint8", 4 * lanes, broadcast(x, lanes))
        return intrinsic("int32", lanes, name, acc, xs, w)


_PMADDWD = {8: "llvm.x86.avx2.pmadd.wd", 4: "llvm.x86.sse2.pmadd.wd"}
_PMADDUBSW = {8: "llvm.x86.avx2.pmadd.ub.sw", 4: "llvm.x86.ssse3.pmadd.ub.sw.128"}
_PSHUFB = {8: "llvm.x86.avx2.pshuf.b", 4: "llvm.x86.ssse3.pshuf.b.128"}


# int8 value of every sub-byte code, sixteen entries for ``pshufb``.
_CODES = {4: [*range(8), *range(-8, 0)], 2: [0, 1, -2, -1] * 4, 1: [1, -1] * 8}


class Bytes(_X86):
    """``pmaddubsw``, only for weights of which no adjacent pair can saturate its int16.

    The products of narrow weights are so small that many steps fit into int16 sums.
    """

    def __init__(self, avx2: bool, w_bits: int, x_bits: int) -> None:
        self.name = "avx2_maddubs" if avx2 else "sse_maddubs"
        self.lanes = (8, 4) if avx2 else (4,)
        pair = 2 * ((1 << x_bits) - 1) * max(1, 1 << (w_bits - 1))
        steps = 32767 // pair if w_bits < 8 else 0
        self.flush = steps if steps >= 8 else 0
        self.multiplies, self.scratch = (1, 4) if self.flush else (2, 3)

    def unpack(self, packed: Expr, bits: int, lanes: int) -> Expr:
        """Weights of the topmost piece."""
        index = packed >> splat("int32", 8 - bits, lanes)
        index = index & splat("int32", _repeat_byte((1 << bits) - 1), lanes)
        table = tirx.Shuffle(
            [tirx.IntImm("int8", code) for code in _CODES[bits]] * (lanes // 4),
            list(range(4 * lanes)),
        )
        index = bits_as("int8", 4 * lanes, index)
        return intrinsic("int8", 4 * lanes, _PSHUFB[lanes], table, index)

    def dot(self, acc: Expr, x: Expr, w: Expr, lanes: int) -> Expr:
        """Accumulator after one step."""
        xs = bits_as("uint8", 4 * lanes, broadcast(x, lanes))
        pairs = intrinsic("int16", 2 * lanes, _PMADDUBSW[lanes], xs, w)
        return acc + (pairs if self.flush else self.widen(pairs, lanes))

    def widen(self, pairs: Expr, lanes: int) -> Expr:
        """int16 sums, added in pairs."""
        ones = splat("int16", 1, 2 * lanes)
        return intrinsic("int32", lanes, _PMADDWD[lanes], pairs, ones)


class Words(_X86):
    """``pmaddwd`` on values widened to int16: exact for any 8-bit weights."""

    step = 2
    x_dtype = "int16"
    scratch = 2
    weight_cost = 2

    def __init__(self, avx2: bool) -> None:
        self.name = "avx2_maddwd" if avx2 else "sse_maddwd"
        self.lanes = (8, 4) if avx2 else (4,)

    def load_weight(self, w: Expr, offset: Expr, lanes: int) -> Expr:
        """Whole-byte weights."""
        return cast("int16", 2 * lanes, load(w, offset, 2 * lanes))

    def dot(self, acc: Expr, x: Expr, w: Expr, lanes: int) -> Expr:
        """Accumulator after one step."""
        xs = bits_as("int16", 2 * lanes, broadcast(x, lanes))
        return acc + intrinsic("int32", lanes, _PMADDWD[lanes], xs, w)


def choose(isa: str, w_bits: int, x_bits: int, depth: int, no_saturation: bool) -> InstructionSet:
    """Pick the multiply-add step.

    Parameters
    ----------
    isa : str
        ``avx512_vnni``, ``avx_vnni``, ``avx2``, ``sse`` (128 bits, from SSSE3 on) or ``generic``.
    w_bits, x_bits : int
    depth : int
        Products in one output value.
    no_saturation : bool
        Whether the layer's own 8-bit weights are proven safe for ``vpmaddubsw``.
    """
    if isa in ("avx512_vnni", "avx_vnni"):
        # Scaled sub-byte weights lie within ±128: their sum must not leave int32.
        fits = w_bits == 8 or depth * ((1 << x_bits) - 1) * 128 < 1 << 31
        return Vnni(isa == "avx512_vnni") if fits else InstructionSet()
    if isa in ("avx2", "sse"):
        # Below 8 bits a pair is at most 255 * (8 + 8) in magnitude.
        avx2 = isa == "avx2"
        return Bytes(avx2, w_bits, x_bits) if w_bits < 8 or no_saturation else Words(avx2)
    return InstructionSet()
