"""From int32 accumulators in registers to the output in memory.

The meaning is :func:`tvmquant.reference.requantize`, bit for bit. Each requantize flavour first
gives int32 values that are rounded but neither offset nor clamped; on x86 up to four vectors of
them are then packed to bytes with saturating instructions, elsewhere they are clamped and cast.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.tir import (
    Expr,
    Register,
    bits_as,
    broadcast,
    cast,
    i64,
    intrinsic,
    load,
    splat,
    store,
)

# Above every clamp bound, and still an int16 after a zero point was added.
_BEYOND = 32000
# Adding 1.5 * 2**23 leaves the integer nearest to a small float in the low mantissa bits.
_MAGIC = 12582912.0
_MAGIC_BITS = 0x4B400000

_CVTPS2DQ = {8: "llvm.x86.avx.cvt.ps2dq.256", 4: "llvm.x86.sse2.cvtps2dq"}
_PACKSSDW = {
    16: "llvm.x86.avx512.packssdw.512",
    8: "llvm.x86.avx2.packssdw",
    4: "llvm.x86.sse2.packssdw.128",
}
_PACKUSWB = {
    16: "llvm.x86.avx512.packuswb.512",
    8: "llvm.x86.avx2.packuswb",
    4: "llvm.x86.sse2.packuswb.128",
}

PARAM_DTYPES = {
    "float": ("float32",),
    "dequantize": ("float32",),
    "fixed_point": ("int32", "int32"),
    "power_of_two": ("int32",),
    "none": (),
}


@dataclass
class Epilogue:
    """Emitter of the epilogue.

    Attributes
    ----------
    flavour : str
        One of :data:`tvmquant.reference.FLAVOURS`.
    x86 : bool
        Use the x86 convert and pack instructions.
    out : Buffer
        Flat output.
    params : list of Buffer
        Requantize parameters, one value a padded output channel.
    zero_point, low, high : Expr
        int32 scalars from ``qinfo``.
    """

    flavour: str
    x86: bool
    out: Expr
    params: list[Expr]
    zero_point: Expr
    low: Expr
    high: Expr

    def emit(self, sums: list[Expr], lanes: list[int], channel: Expr, at: Expr, valid: int) -> None:
        """Requantize and store neighbouring vectors of one pixel.

        Parameters
        ----------
        sums : list of Expr
            int32 accumulators, bias included.
        lanes : list of int
            Their widths.
        channel : Expr
            Index of the first one in the parameters.
        at : Expr
            Offset of the first one in the output.
        valid : int
            How many of the channels exist: the rest of the last vector is not stored.
        """
        start = 0
        while start < len(sums):
            width, end = lanes[start], start + 1
            done = sum(lanes[:start])
            while end < len(sums) and lanes[end] == width and end - start < 4:
                if done + (end + 1 - start) * width > valid:
                    break  # a vector that is not stored whole goes alone
                end += 1
            values = [
                self._scale(sums[i], channel + (done + (i - start) * width), width)
                for i in range(start, end)
            ]
            exists = min((end - start) * width, valid - done)
            if self.flavour in ("none", "dequantize"):
                for i, value in enumerate(values):
                    there = min(width, exists - i * width)
                    self._store(value, at + (done + i * width), width, there)
            elif self.x86:
                self._pack(values, width, at + done, exists)
            else:
                for i, value in enumerate(values):
                    there = min(width, exists - i * width)
                    self._store(self._clamp(value, width), at + (done + i * width), width, there)
            start = end

    def _scale(self, acc: Expr, channel: Expr, lanes: int) -> Expr:
        params = [load(p, channel, lanes) for p in self.params]
        if self.flavour == "none":
            return acc
        if self.flavour == "dequantize":
            return cast("float32", lanes, acc) * params[0]
        if self.flavour == "float":
            return self._round(cast("float32", lanes, acc) * params[0], lanes)
        if self.flavour == "fixed_point":
            return _fixed_point(acc, params[0], params[1], lanes)
        return _power_of_two(acc, params[0], lanes)

    def _round(self, scaled: Expr, lanes: int) -> Expr:
        if not self.x86:
            # The clamp between the product and the sum also keeps them from becoming an FMA.
            low = broadcast(tirx.Cast("float32", self.low - self.zero_point), lanes)
            high = broadcast(tirx.Cast("float32", self.high - self.zero_point), lanes)
            clamped = T.min(T.max(scaled, low), high)
            shifted = bits_as("int32", lanes, clamped + splat("float32", _MAGIC, lanes))
            return shifted - splat("int32", _MAGIC_BITS, lanes)
        # Too low converts to INT_MIN, which saturates rightly; too high would do so as well.
        scaled = T.min(scaled, splat("float32", _BEYOND, lanes))
        if lanes == 16:
            name = "llvm.x86.avx512.mask.cvtps2dq.512"
            unused, all_lanes = splat("int32", 0, 16), tirx.IntImm("int16", -1)
            current_rounding = tirx.IntImm("int32", 4)
            return intrinsic("int32", 16, name, scaled, unused, all_lanes, current_rounding)
        return intrinsic("int32", lanes, _CVTPS2DQ[lanes], scaled)

    def _clamp(self, value: Expr, lanes: int) -> Expr:
        low = broadcast(self.low - self.zero_point, lanes)
        high = broadcast(self.high - self.zero_point, lanes)
        value = T.min(T.max(value, low), high) + broadcast(self.zero_point, lanes)
        return cast("uint8", lanes, value)

    def _pack(self, values: list[Expr], lanes: int, at: Expr, exists: int) -> None:
        count = len(values)
        values = [T.bind(value) for value in values]
        values += [values[-1]] * (4 - count)
        zero_point = broadcast(tirx.Cast("int16", self.zero_point), 2 * lanes)
        halves = [
            intrinsic("int16", 2 * lanes, _PACKSSDW[lanes], a, b) + zero_point
            for a, b in (values[:2], values[2:])
        ]
        packed = intrinsic("int8", 4 * lanes, _PACKUSWB[lanes], *halves)
        packed = bits_as("uint8", 4 * lanes, packed)
        packed = T.max(packed, broadcast(tirx.Cast("uint8", self.low), 4 * lanes))
        packed = T.min(packed, broadcast(tirx.Cast("uint8", self.high), 4 * lanes))
        words = T.bind(bits_as("int32", lanes, packed))
        # Packing works within 128-bit lanes: word 4 * lane + vector belongs to vector, lane.
        parts = lanes // 4
        order = [lane * 4 + v for v in range(4) for lane in range(parts)]
        done = 0
        for size in (4, 2, 1):
            if count - done >= size:
                chosen = order[done * parts : (done + size) * parts]
                piece = tirx.Shuffle([words], chosen) if lanes > 4 or size < 4 else words
                total = size * lanes
                piece = bits_as("uint8", total, piece)
                self._store(piece, at + done * lanes, total, min(total, exists - done * lanes))
                done += size

    def _store(self, value: Expr, at: Expr, lanes: int, exists: int) -> None:
        if exists >= lanes:
            store(self.out, value, at, lanes)
            return
        spill = Register(str(self.out.dtype), lanes)
        spill.set(value)
        done = 0
        for size in (8, 4, 2, 1):
            if exists - done >= size:
                store(self.out, load(spill.buffer, i64(done), size), at + done, size)
                done += size


def _fixed_point(acc: Expr, multiplier: Expr, shift: Expr, lanes: int) -> Expr:
    product = cast("int64", lanes, acc) * cast("int64", lanes, multiplier)
    shift = cast("int64", lanes, shift)
    one = splat("int64", 1, lanes)
    rounded = (product + (one << (shift - one))) >> shift
    high, low = splat("int64", _BEYOND, lanes), splat("int64", -_BEYOND, lanes)
    return cast("int32", lanes, T.max(T.min(rounded, high), low))


def _power_of_two(acc: Expr, shift: Expr, lanes: int) -> Expr:
    zero, one = splat("int32", 0, lanes), splat("int32", 1, lanes)
    right = T.max(shift, one)
    # (acc + 2**(s-1)) >> s without the sum, which might overflow.
    rounded = (acc >> right) + ((acc >> (right - one)) & one)
    # A value beyond 1024 saturates the output whatever the shift to the left.
    bound = splat("int32", 1024, lanes)
    small = T.max(T.min(acc, bound), zero - bound)
    shifted = small << T.max(zero - shift, zero)
    chosen = tirx.Select(shift > zero, rounded, shifted)
    return T.min(chosen, splat("int32", _BEYOND, lanes))
