"""From int32 accumulators in NEON registers to the output in memory.

The meaning is :func:`tvmquant.reference.requantize`, bit for bit. Saturating narrowing may come
before the clamp: all steps after the rounding are monotonic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.functions import flat
from tvmquant.schedules.linear.addition import load_existing
from tvmquant.schedules.linear.tir import (
    Expr,
    Register,
    bits_as,
    broadcast,
    cast,
    i64,
    load,
    splat,
    store,
)
from tvmquant.schedules.neon.vectors import concat, neon, part, wrapping
from tvmquant.schedules.workload import Workload

# Above every clamp bound, and still an int16 after a zero point was added.
_BEYOND = 32000


@dataclass
class Epilogue:
    """Emitter of the epilogue.

    Attributes
    ----------
    flavour : str
        One of :data:`tvmquant.reference.FLAVOURS`.
    out : Buffer
        Flat output.
    params : list of Buffer
        Requantize parameters, one value a padded output channel.
    zero_point, low, high : Expr
        int32 scalars from ``qinfo``.
    addition : Addition or None
        What follows.
    """

    flavour: str
    out: Expr
    params: list[Expr]
    zero_point: Expr
    low: Expr
    high: Expr
    addition: Addition | None = None

    def emit(self, sums: list[Expr], channel: Expr, at: Expr, valid: int) -> None:
        """Requantize and store neighbouring channels of one pixel.

        Parameters
        ----------
        sums : list of Expr
            int32x4 accumulators, bias included.
        channel : Expr
            Index of the first channel in the parameters.
        at : Expr
            Offset of the first channel in the output.
        valid : int
            How many of the channels exist.
        """
        values = [self.scale(sums[i], channel + 4 * i) for i in range(-(-valid // 4))]
        if self.flavour not in ("none", "dequantize"):
            values = [T.bind(neon("int16", 4, "sqxtn.v4i16", value)) for value in values]

        def take(quad: int, count: int) -> Expr:
            return values[quad] if count == 1 else concat(values[quad], values[quad + 1], 4)

        self.emit_rounded(take, at, valid)

    def emit_rounded(self, take: Callable[[int, int], Expr], at: Expr, valid: int) -> None:
        """Store neighbouring channels of one pixel that are scaled and rounded already.

        Parameters
        ----------
        take : callable
            ``(first, count)`` → ``count`` (1 or 2) quads of channels in one vector: int16,
            neither offset nor clamped; for ``none`` and ``dequantize`` the outputs.
        at, valid
            As for :meth:`emit`.
        """
        count = -(-valid // 4)
        if self.flavour in ("none", "dequantize"):
            for i in range(count):
                self._store(take(i, 1), at + 4 * i, 4, min(4, valid - 4 * i))
            return
        start = 0
        while start < count:
            size = next(s for s in (4, 2, 1) if s <= count - start)
            exists = min(4 * size, valid - 4 * start)
            parts = [take(start + i, min(2, size)) for i in range(0, size, 2)]
            self._narrow(parts, size, at + 4 * start, exists)
            start += size

    def scale(self, acc: Expr, channel: Expr) -> Expr:
        """Rounded int32x4 (for ``dequantize`` float32x4) of an accumulator."""
        params = [load(p, channel, 4) for p in self.params]
        if self.flavour == "none":
            return acc
        if self.flavour == "dequantize":
            return cast("float32", 4, acc) * params[0]
        return _rounded(self.flavour, acc, params)

    def _narrow(self, words: list[Expr], quads: int, at: Expr, exists: int) -> None:
        """Offset, clamp and store 1, 2 or 4 quads of rounded int16."""
        if quads == 1:
            words = [concat(words[0], words[0], 4)]
        if self.addition is None:
            value = _stored(words, self.zero_point, self.low, self.high)
        else:
            value = self.addition.emit(words, at, exists)
        if quads == 1:
            value = part(T.bind(value), 0, 4)
        self._store(value, at, 4 * quads, exists)

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


@dataclass
class Addition:
    """Emitter of a residual addition.

    The meaning is :func:`tvmquant.reference.add` of the layer's own clamped output and another
    tensor. Integers take as few instructions as fused multiplications and additions of floats
    would, so only the forms of :data:`tvmquant.schedules.linear.addition.INTEGER_FORMS` exist.

    Attributes
    ----------
    flavour : str
        Of the sum's requantization.
    other : Buffer
        Flat uint8, as large as the output.
    numbers : list of Expr
        int32 scalars, see :func:`make_epilogue`.
    """

    flavour: str
    other: Expr
    numbers: list[Expr]

    def emit(self, words: list[Expr], at: Expr, exists: int) -> Expr:
        """Stored sums of 8 or 16 neighbouring values, of which ``exists`` exist.

        ``words`` are the layer's own, rounded int16x8, neither offset nor clamped.
        """
        zero_point, low, high, *range_, own_factor, other_factor, offset, first, second = (
            self.numbers
        )
        low, high = (tirx.Cast("int16", limit - zero_point) for limit in (low, high))
        other = T.bind(load_existing(self.other, 8 * len(words), at, exists))
        # Widened in two steps: of single quads of bytes LLVM makes three instructions.
        halves = [
            [T.bind(T.min(T.max(w, broadcast(low, 8)), broadcast(high, 8))) for w in words],
            [T.bind(cast("uint16", 8, part(other, 8 * i, 8))) for i in range(len(words))],
        ]
        params = [bits_as("float32", 1, first)] if self.flavour == "float" else [first, second]
        params = [broadcast(param, 4) for param in params]
        quads = []
        for start in range(0, 8 * len(words), 4):
            total = broadcast(offset, 4)
            for half, factor in zip(halves, (own_factor, other_factor)):
                wide = cast("int32", 4, part(half[start // 8], start % 8, 4))
                product = wrapping("mul", 32, 4, wide, broadcast(factor, 4))
                total = wrapping("add", 32, 4, total, product)
            rounded = _rounded(self.flavour, T.bind(total), params)
            quads.append(T.bind(neon("int16", 4, "sqxtn.v4i16", rounded)))
        words = [concat(*pair, 4) for pair in zip(quads[::2], quads[1::2])]
        return _stored(words, *range_)


def make_epilogue(
    workload: Workload, out: Expr, params: list[Expr], qinfo: Expr, other: Expr | None
) -> Epilogue:
    """Epilogue of a kernel.

    Parameters
    ----------
    workload : Workload
    out : Buffer
    params : list of Buffer
        Requantize parameters.
    qinfo : Buffer
        ``workload.numbers`` int32, see :meth:`tvmquant.schedules.linear.addition.Sum.encode`.
    other : Buffer or None
        Other operand of the residual addition, if there is one.
    """
    numbers = [T.bind(qinfo[i64(i)]) for i in range(1, workload.numbers)]
    addition = None
    if other is not None:
        addition = Addition(workload.residual, flat(other), numbers)
    return Epilogue(workload.requantize, flat(out), params, *numbers[:3], addition)


def _stored(words: list[Expr], zero_point: Expr, low: Expr, high: Expr) -> Expr:
    """uint8 of 1 or 2 vectors of rounded int16x8."""
    offset = broadcast(tirx.Cast("int16", zero_point), 8)
    pieces = []
    for word in words:
        whole = neon("int16", 8, "sqadd.v8i16", word, offset)
        pieces.append(T.bind(neon("uint8", 8, "sqxtun.v8i8", whole)))
    lanes = 8 * len(pieces)
    value = concat(*pieces, 8) if len(pieces) == 2 else pieces[0]
    value = T.max(value, broadcast(tirx.Cast("uint8", low), lanes))
    return T.min(value, broadcast(tirx.Cast("uint8", high), lanes))


def _rounded(flavour: str, acc: Expr, params: list[Expr]) -> Expr:
    """Scaled and rounded int32x4."""
    if flavour == "float":
        return neon("int32", 4, "fcvtns.v4i32.v4f32", cast("float32", 4, acc) * params[0])
    if flavour == "fixed_point":
        return _fixed_point(acc, params[0], params[1])
    return _power_of_two(acc, params[0])


def _fixed_point(acc: Expr, multiplier: Expr, shift: Expr) -> Expr:
    halves = []
    for start in (0, 2):
        a, m = part(acc, start, 2), part(multiplier, start, 2)
        product = neon("int64", 2, "smull.v2i64", a, m)
        # A rounding shift to the right by s is one to the left by -s.
        left = cast("int64", 2, splat("int32", 0, 2) - part(shift, start, 2))
        halves.append(
            neon("int32", 2, "sqxtn.v2i32", neon("int64", 2, "srshl.v2i64", product, left))
        )
    return concat(*halves, 2)


def _power_of_two(acc: Expr, shift: Expr) -> Expr:
    zero = splat("int32", 0, 4)
    right = T.max(shift, zero)
    rounded = neon("int32", 4, "srshl.v4i32", acc, zero - right)
    # A value beyond 1024 saturates the output whatever the shift to the left.
    bound = splat("int32", 1024, 4)
    small = T.max(T.min(acc, bound), zero - bound)
    shifted = small << T.max(zero - shift, zero)
    return tirx.Select(shift > zero, rounded, shifted)
