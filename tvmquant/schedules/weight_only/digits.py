"""Activations of a group as integers of one step, cut into signed bytes.

The step is a power of two chosen so that the largest activation of the group needs 22 bits; an
activation is then ``step * (d0 + 256 * d1 + 65536 * d2)`` with signed bytes ``d``, and sums of
products with integer weights are exact. With one digit the step is a 127th of the largest
activation. A group with an infinity or a NaN gets the step NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

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

_LANES = 16
_MAGNITUDE = 0x7FFFFFFF
_INFINITY = 0x7F800000
_NAN = 0x7FC00000
# The largest magnitude is between 2**21 and 2**22 steps.
_STEP_BITS = 21
# Adding 1.5 * 2**23 leaves the rounded integer in the low bits of a float32.
_MAGIC = 0x4B400000


@dataclass(frozen=True)
class Digits:
    """Where the digits of all rows and groups are.

    Attributes
    ----------
    bytes : Buffer
        int8 ``[rows, groups, digits, padded]``, flat.
    starts : Buffer
        int32 ``[rows, groups, digits]``: minus the sum of the digits times ``offset``, where the
        sums of products with weights stored ``offset`` too large start.
    steps : Buffer
        float32 ``[rows, groups]``.
    sums : Buffer or None
        float32 ``[rows, groups]``: the sum of the activations.
    count, padded : int
        Digits, bytes of a digit of a group.
    """

    bytes: Any
    starts: Any
    steps: Any
    sums: Any
    count: int
    padded: int


def emit_digits(
    x: Any,
    rows: int,
    depth: int,
    group: int,
    *,
    padded: int,
    count: int,
    offset: int,
    sums: bool,
    parallel: bool,
) -> Digits:
    """Emit the code that makes the digits of ``x`` (flat float32 ``[rows, depth]``)."""
    groups = -(-depth // group)
    cells = rows * groups

    def buffer(size: int, dtype: str) -> Any:
        return T.alloc_buffer((i64(size),), dtype)

    made = Digits(
        buffer(cells * count * padded, "int8"),
        buffer(cells * count, "int32"),
        buffer(cells, "float32"),
        buffer(cells, "float32") if sums else None,
        count,
        padded,
    )
    whole, rest = divmod(depth, group)
    loop = T.parallel if parallel and rows > 1 else T.serial
    with loop(i64(rows)) if rows > 1 else nullcontext(i64(0)) as row:
        if whole:
            with T.serial(i64(whole)) if whole > 1 else nullcontext(i64(0)) as index:
                start = T.bind(row * depth + index * group)
                _emit_group(x, start, group, made, T.bind(row * groups + index), offset)
        if rest:
            start = T.bind(row * depth + whole * group)
            _emit_group(x, start, rest, made, T.bind(row * groups + whole), offset)
    return made


@contextmanager
def _pieces(lanes: int, rounds: int, first: int) -> Iterator[Expr]:
    """Offset of every piece of ``lanes`` elements."""
    with T.serial(i64(rounds)) if rounds > 1 else nullcontext(i64(0)) as i:
        yield T.bind(first + i * lanes)


def _cuts(size: int) -> list[tuple[int, int, int]]:
    """``(lanes, rounds, first)`` that cover ``size`` elements."""
    cuts, first = [], 0
    for lanes in (_LANES, 4, 1):
        rounds = (size - first) // lanes
        if rounds:
            cuts.append((lanes, rounds, first))
        first += rounds * lanes
    return cuts


def _emit_group(x: Any, start: Expr, size: int, made: Digits, cell: Expr, offset: int) -> None:
    scale, step = _scale_and_step(_largest(x, start, size), made.count)
    T.buffer_store(made.steps, step, [cell])
    base = T.bind(cell * (made.count * made.padded))
    totals = [Register("int32", 1) for _ in range(made.count)]
    for total in totals:
        total.set(tirx.IntImm("int32", 0))
    for lanes, rounds, first in _cuts(size):
        vectors = [Register("int32", lanes) for _ in range(made.count)]
        for vector in vectors:
            vector.set(splat("int32", 0, lanes))
        with _pieces(lanes, rounds, first) as at:
            value = load(x, start + at, lanes) * broadcast(scale, lanes)
            for digit, part in enumerate(_split(T.bind(value), lanes, made.count)):
                vectors[digit].set(vectors[digit].get() + part)
                byte = cast("int8", lanes, part)
                store(made.bytes, byte, base + digit * made.padded + at, lanes)
        for total, vector in zip(totals, vectors):
            total.set(total.get() + _reduce("add", vector.get(), lanes))
    for digit, total in enumerate(totals):
        for lanes, rounds, first in _cuts(made.padded - size):
            with _pieces(lanes, rounds, first) as at:
                place = base + (digit * made.padded + size) + at
                store(made.bytes, splat("int8", 0, lanes), place, lanes)
        negative = total.get() * tirx.IntImm("int32", -offset)
        T.buffer_store(made.starts, negative, [cell * made.count + digit])
    if made.sums is not None:
        value = tirx.Cast("float32", totals[-1].get())
        for total in reversed(totals[:-1]):
            value = value * splat("float32", 256.0, 1) + tirx.Cast("float32", total.get())
        T.buffer_store(made.sums, value * step, [cell])


def _largest(x: Any, start: Expr, size: int) -> Expr:
    """Bits of the largest magnitude: ordered like the magnitudes, NaN beyond infinity."""
    most = Register("int32", 1)
    most.set(tirx.IntImm("int32", 0))
    for lanes, rounds, first in _cuts(size):
        vector = Register("int32", lanes)
        vector.set(splat("int32", 0, lanes))
        with _pieces(lanes, rounds, first) as at:
            bits = bits_as("int32", lanes, load(x, start + at, lanes))
            magnitude = bits & splat("int32", _MAGNITUDE, lanes)
            vector.set(tirx.max(vector.get(), magnitude))
        most.set(tirx.max(most.get(), _reduce("smax", vector.get(), lanes)))
    return T.bind(most.get())


def _scale_and_step(most: Expr, count: int) -> tuple[Expr, Expr]:
    """What activations are multiplied by to become integers, and the step between these."""

    def number(value: int) -> Expr:
        return tirx.IntImm("int32", value)

    if count == 1:
        largest = T.bind(bits_as("float32", 1, most))
        zero, limit = splat("float32", 0.0, 1), splat("float32", 127.0, 1)
        # Of a denormal largest activation the inverse may be infinite.
        usable = most >= number(1 << 23)
        scale = tirx.Select(usable, limit / largest, zero)
        step = bits_as("float32", 1, tirx.Select(most >= number(_INFINITY), number(_NAN), most))
        return T.bind(scale), T.bind(step / limit)
    exponent = T.bind(tirx.max(most >> number(23), number(_STEP_BITS + 1)))
    # 2**-e has the exponent bits 2 * 127 - (e + 127).
    inverse = (number(254 + _STEP_BITS) - exponent) << number(23)
    step = (exponent - number(_STEP_BITS)) << number(23)
    step = tirx.Select(most >= number(_INFINITY), number(_NAN), step)
    return T.bind(bits_as("float32", 1, inverse)), T.bind(bits_as("float32", 1, step))


def _split(value: Expr, lanes: int, count: int) -> list[Expr]:
    """Signed bytes of the rounded values, the least first, as int32."""
    magic = splat("int32", _MAGIC, lanes)
    shifted = bits_as("int32", lanes, value + bits_as("float32", lanes, magic))
    rest = T.bind(shifted - magic)
    if count == 1:
        return [rest]
    digits, up, byte = [], splat("int32", 24, lanes), splat("int32", 8, lanes)
    for _ in range(count - 1):
        digits.append(T.bind((rest << up) >> up))
        rest = T.bind((rest - digits[-1]) >> byte)
    return [*digits, rest]


def _reduce(name: str, value: Expr, lanes: int) -> Expr:
    return value if lanes == 1 else intrinsic("int32", 1, f"llvm.vector.reduce.{name}", value)
