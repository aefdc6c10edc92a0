"""From int32 accumulators in registers to the output in memory.

The meaning is :func:`tvmquant.reference.requantize`, bit for bit. Each requantize flavour first
gives int32 values that are rounded but neither offset nor clamped; on x86 up to four vectors of
them are then packed to bytes with saturating instructions, elsewhere they are clamped and cast.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.addition import Addition, make_addition
from tvmquant.schedules.linear.rounding import Clamp, rounded
from tvmquant.schedules.linear.tir import (
    Expr,
    Register,
    bits_as,
    broadcast,
    cast,
    i64,
    intrinsic,
    load,
    store,
)
from tvmquant.schedules.workload import Workload

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
    clamp : Clamp
        Of the output.
    addition : Addition or None
        What is added to the layer's own output.
    """

    flavour: str
    x86: bool
    out: Expr
    params: list[Expr]
    clamp: Clamp
    addition: Addition | None = None

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
                self._scale(
                    sums[i],
                    channel + (done + (i - start) * width),
                    width,
                    at + (done + (i - start) * width),
                    valid - done - (i - start) * width,
                )
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

    def _scale(self, acc: Expr, channel: Expr, lanes: int, at: Expr, exists: int) -> Expr:
        params = [load(p, channel, lanes) for p in self.params]
        if self.flavour == "none":
            return acc
        if self.flavour == "dequantize":
            return cast("float32", lanes, acc) * params[0]
        if self.addition:
            return self.addition.emit(self.flavour, acc, params, lanes, at, exists)
        return rounded(self.flavour, acc, params, lanes, self.x86, self.clamp)

    def _clamp(self, value: Expr, lanes: int) -> Expr:
        clamped = self.clamp.apply("int32", lanes, value)
        return cast("uint8", lanes, clamped + broadcast(self.clamp.zero_point, lanes))

    def _pack(self, values: list[Expr], lanes: int, at: Expr, exists: int) -> None:
        count = len(values)
        values = [T.bind(value) for value in values]
        values += [values[-1]] * (4 - count)
        zero_point = broadcast(tirx.Cast("int16", self.clamp.zero_point), 2 * lanes)
        halves = [
            intrinsic("int16", 2 * lanes, _PACKSSDW[lanes], a, b) + zero_point
            for a, b in (values[:2], values[2:])
        ]
        packed = intrinsic("int8", 4 * lanes, _PACKUSWB[lanes], *halves)
        packed = bits_as("uint8", 4 * lanes, packed)
        packed = T.max(packed, broadcast(tirx.Cast("uint8", self.clamp.low), 4 * lanes))
        packed = T.min(packed, broadcast(tirx.Cast("uint8", self.clamp.high), 4 * lanes))
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


def make_epilogue(
    workload: Workload, x86: bool, out: Expr, params: list[Expr], qinfo: Expr, other: Expr | None
) -> Epilogue:
    """Epilogue of a kernel.

    Parameters
    ----------
    workload : Workload
    x86, out, params
        See :class:`Epilogue`.
    qinfo : Buffer
        int32 numbers, see :meth:`tvmquant.schedules.workload.Kernel.prim_func`.
    other : Buffer or None
        Flat other operand of the residual addition, if there is one.
    """
    numbers = [T.bind(qinfo[i64(i)]) for i in range(workload.numbers)]
    addition = None
    if workload.residual:
        addition = make_addition(workload.residual, x86, other, numbers)
    clamp = addition.total if addition else Clamp(*numbers[1:4])
    return Epilogue(workload.requantize, x86, out, params, clamp, addition)
