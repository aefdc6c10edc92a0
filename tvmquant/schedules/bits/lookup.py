"""The kernel that multiplies by table, see :mod:`tvmquant.schedules.bits.tables`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.bits.source import PackedInput, emit_pixels
from tvmquant.schedules.bits.tables import Tables, byte_order, spread, widen
from tvmquant.schedules.bits.tiling import choose
from tvmquant.schedules.linear.emit import Nest
from tvmquant.schedules.linear.microkernel import Microkernel
from tvmquant.schedules.linear.plan import Plan
from tvmquant.schedules.linear.strips import Patch
from tvmquant.schedules.linear.tir import (
    Expr,
    Register,
    broadcast,
    cast,
    i64,
    load,
    splat,
    store,
)
from tvmquant.schedules.workload import Workload


@dataclass(frozen=True)
class LookupPlan(Plan):
    """Everything that decides the code; ``isa`` is a :class:`Tables`.

    The activations of a group lie ``input.channels`` channels apart, so that whole vectors of
    groups are packed at once.
    """

    isa: Tables
    input: PackedInput
    cost: float

    @cached_property
    def words(self) -> int:
        """Words of weights of one output channel."""
        return -(-self.input.steps // self.isa.steps)

    @property
    def weight_count(self) -> int:
        """Bytes of the packed weights."""
        return self.tiling.group_lanes * self.words * self.isa.words

    @property
    def has_table(self) -> bool:
        """Offsets always come from a table."""
        return True

    @property
    def offsets(self) -> np.ndarray:
        """int32: offset of every step; those that only fill the last word read the first unit."""
        offsets = self.input.offsets
        return np.append(offsets, np.zeros(-len(offsets) % self.isa.steps, np.int32))

    def correct(self, bias: np.ndarray) -> np.ndarray:
        """The bias less the constants that the table adds."""
        return bias - np.int32(self.isa.shift * self.words * self.isa.steps)

    def pack(self, weight: np.ndarray) -> np.ndarray:
        """int8 ``[O, ..., C]`` → uint8 indices in the order of the kernel."""
        isa, g = self.isa, self.input.geometry
        units, channels = self.input.channels, weight.shape[-1]
        taps = weight.reshape(g.out_channels, -1, channels)
        lanes = self.tiling.group_lanes
        missing = isa.group * units - channels
        taps = np.pad(taps, ((0, lanes - len(taps)), (0, 0), (0, missing)))
        codes = taps > 0 if isa.w_bits == 1 else taps & ((1 << isa.w_bits) - 1)
        codes = codes.reshape(lanes, -1, isa.group, units).astype(np.uint8)
        shifts = (isa.w_bits * np.arange(isa.group)).astype(np.uint8)[:, None]
        index = np.bitwise_or.reduce(codes << shifts, axis=2).reshape(lanes, -1)
        index = np.pad(index, ((0, 0), (0, self.words * isa.steps - index.shape[1])))
        tiling, pieces, start = self.tiling, [], 0
        for widths in [tiling.vectors] * tiling.full_blocks + [tiling.tail] * bool(tiling.tail):
            block = []
            for width in widths:
                rows = index[start : start + width][byte_order(width)]
                block.append(isa.pack_indices(rows.T))
                start += width
            pieces.append(np.concatenate(block, axis=-1).reshape(-1))
        return np.concatenate(pieces)


def make_plan(workload: Workload, isa: Tables) -> LookupPlan | None:
    """Plan of a workload, ``None`` where 16-bit sums might overflow."""
    units = -(-workload.x_shape[-1] // isa.group)
    source = PackedInput.of(workload, units, 1, "uint16")
    if isa.w_bits == 1 and source.steps % isa.steps:
        # There is no zero among ±1 weights to fill the last word: fill the activations.
        source = PackedInput.of(workload, units + 1, 1, "uint16")
    if isa.top * (source.steps + isa.steps) >= 1 << 16 or isa.span == 0:
        return None
    cost, tiling = choose(source, isa)
    return LookupPlan(workload, isa, source, tiling, cost * source.geometry.images)


class LookupNest(Nest):
    """Loops of a kernel that multiplies by table."""

    plan: LookupPlan

    def prepare(self) -> None:
        """Make the table."""
        self.rows = self.plan.isa.emit_table()

    def fill(self, work: Expr, x_base: Expr, x_zero_point: Expr) -> None:
        """Pack the activations of an image into offsets of rows."""
        source, isa = self.plan.input, self.plan.isa
        channels = self.plan.workload.x_shape[-1]
        pieces = list(_segments(source.channels, channels, isa.group))
        most = tirx.IntImm("int32", (1 << isa.x_bits) - 1)  # never beyond the table
        fill = T.bind(tirx.Cast("uint16", x_zero_point & most))

        def write(pixel: Expr, value: Callable[[int, Expr, int], Expr]) -> None:
            at = T.bind(pixel * source.channels)
            for start, end, planes in pieces:

                def piece(first: Expr, width: int, planes: int = planes) -> None:
                    total = None
                    for j in range(planes):
                        shift = splat(
                            "uint16", isa.entries.bit_length() - 1 + j * isa.x_bits, width
                        )
                        part = value(j * source.channels, first, width) << shift
                        total = part if total is None else total | part
                    store(work, total, at + first, width)

                _cover(start, end, piece)

        def copy(pixel: Expr, at: Expr) -> None:
            def value(plane: int, first: Expr, width: int) -> Expr:
                return cast("uint16", width, load(self.x, at + (first + plane), width))

            write(pixel, value)

        emit_pixels(
            source,
            channels,
            x_base,
            self.plan.tiling.parallel,
            copy,
            lambda pixel: write(pixel, lambda plane, first, width: broadcast(fill, width)),
        )

    def tile(self, reads: Expr, vectors: tuple[int, ...], valid: int, patch: Patch) -> LookupTile:
        """Register tile of ``valid`` channels."""
        tile = LookupTile(
            self.plan, reads, self.w, self.bias, self.table, self.epilogue, vectors, valid, patch
        )
        tile.rows = self.rows
        return tile


def _segments(units: int, channels: int, group: int) -> Iterator[tuple[int, int, int]]:
    """(first unit, end, activations that exist) of the stretches of a pixel's units."""
    counts = [max(0, min(units, channels - j * units)) for j in range(group)]
    start = 0
    for end in sorted({c for c in counts if c}):
        yield start, end, sum(c > start for c in counts)
        start = end


def _cover(start: int, end: int, emit: Callable[[Expr, int], None]) -> None:
    """Vectors that cover a stretch, the last one moved back inside."""
    width = min(32, 1 << ((end - start).bit_length() - 1))
    whole = (end - start) // width
    if whole > 1:
        with T.serial(i64(whole)) as index:
            emit(T.bind(index * width + start), width)
    else:
        emit(i64(start), width)
    if (end - start) % width:
        emit(i64(end - width), width)


class LookupTile(Microkernel):
    """Register tile of a kernel that multiplies by table."""

    plan: LookupPlan
    rows: Expr

    def emit(self, x_at: Expr, out_at: Expr, lane: Expr) -> None:
        """Emit the tile, see :class:`Microkernel`."""
        plan, isa = self.plan, self.plan.isa
        g = plan.input.geometry
        wide = [
            [[Register("uint16", width // 2) for _ in range(2)] for width in self.vectors]
            for _ in self._pixels
        ]
        for register in (r for row in wide for pair in row for r in pair):
            register.set(splat("uint16", 0, register.lanes))
        sums = [[Register("uint8", width) for width in self.vectors] for _ in self._pixels]
        base = T.bind(lane * (plan.words * isa.words))
        turns = -(-plan.words // isa.span)
        span = -(-plan.words // turns)
        with T.serial(i64(turns)) as turn:
            first = T.bind(turn * span)
            for register in (r for row in sums for r in row):
                register.set(splat("uint8", 0, register.lanes))
            with T.serial(T.min(i64(span), i64(plan.words) - first)) as index:
                self._word(base, T.bind(first + index), x_at, sums)
            for row, wide_row in zip(sums, wide):
                for narrow, pair in zip(row, wide_row):
                    widen(narrow.get(), *pair)
        for (i, j), row in zip(self._pixels, wide):
            values, widths = [], []
            for (even, odd), start, width in zip(row, self._starts, self.vectors):
                for v, value in enumerate(spread(even.get(), odd.get(), width)):
                    bias = load(self.bias, lane + (start + v * (width // 4)), width // 4)
                    values.append(value + bias)
                    widths.append(width // 4)
            at = out_at + (i * g.out[1] + j) * g.out_channels
            self.epilogue.emit(values, widths, lane, at, self.valid)

    def _word(self, base: Expr, word: Expr, x_at: Expr, sums: list[list[Register]]) -> None:
        isa, total = self.plan.isa, sum(self.vectors)
        at = T.bind(base + word * (total * isa.words))
        found = []
        for start, width in zip(self._starts, self.vectors):
            words = [
                T.bind(load(self.weights, at + (i * total + start), width))
                for i in range(isa.words)
            ]
            found.append(isa.indices(words, width))
        for step in range(isa.steps):
            index = [T.bind(indices[step]) for indices in found]
            offset = T.bind(x_at + tirx.Cast("int64", self.table[word * isa.steps + step]))
            for (i, j), row in zip(self._pixels, sums):
                x = T.bind(tirx.Cast("int64", self.reads[offset + self.plan.input.pixel(i, j)]))
                for register, chosen, width in zip(row, index, self.vectors):
                    entries = isa.load_row(self.rows, x, width)
                    register.set(register.get() + isa.look_up(entries, chosen, width))
