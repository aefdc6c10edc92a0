"""The code of one register tile: all reduction steps, then the epilogue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.epilogue import Epilogue
from tvmquant.schedules.linear.plan import Plan
from tvmquant.schedules.linear.strips import Patch, Range
from tvmquant.schedules.linear.tir import Expr, Register, i64, load, splat

_LINE = 64  # bytes of a line of the cache
# Pieces of a word of weights whose steps are written out.
_UNROLLED = 4
# The sums of every pixel of a tile; None for a pixel that does not take part in a step.
Sums = list[list[Register] | None]


@dataclass
class Microkernel:
    """Emitter of one register tile.

    Attributes
    ----------
    plan : Plan
    reads, weights, bias : Buffer
        Flat input (or workspace), packed weights, bias of every padded channel.
    table : Buffer or None
        Offsets of the reduction steps.
    epilogue : Epilogue
    vectors : tuple of int
        Lanes of the tile's vectors of output channels.
    valid : int
        How many of these channels exist.
    patch : Patch
        Which tiles of the image this is the code of.
    row : Expr
        Which of them in its column, where that decides which taps are used.
    turn : Expr
        Which tile of a chunk.
    """

    plan: Plan
    reads: Expr
    weights: Expr
    bias: Expr
    table: Expr | None
    epilogue: Epilogue
    vectors: tuple[int, ...]
    valid: int
    patch: Patch
    row: Expr = 0
    turn: Expr = 0

    @cached_property
    def _starts(self) -> list[int]:
        return [sum(self.vectors[:i]) for i in range(len(self.vectors))]

    @cached_property
    def _pixels(self) -> list[tuple[int, int]]:
        return self.patch.pixels

    def emit(self, x_at: Expr, out_at: Expr, lane: Expr) -> None:
        """Emit the tile.

        Parameters
        ----------
        x_at, out_at : Expr
            Offsets of the first pixel in the input, and of its first channel in the output.
        lane : Expr
            Index of the first channel among all padded channels.
        """
        g, isa = self.plan.input.geometry, self.plan.isa
        shift = isa.scale_shift(self.plan.workload.w_bits)
        acc = [[Register("int32", width) for width in self.vectors] for _ in self._pixels]
        for pixel, row in zip(self._pixels, acc):
            for register, bias in zip(row, self._bias(pixel, lane)):
                # A scaled sum gets its bias after it was scaled back.
                register.set(splat("int32", 0, register.lanes) if shift else bias)
        self._reduce(x_at, lane, acc)
        for (i, j), row in zip(self._pixels, acc):
            values = [register.get() for register in row]
            if shift:
                values = [
                    (value >> splat("int32", shift, width)) + bias
                    for value, bias, width in zip(values, self._bias((i, j), lane), self.vectors)
                ]
            at = out_at + (i * g.out[1] + j) * g.out_channels
            self.epilogue.emit(values, list(self.vectors), lane, at, self.valid)

    def _chosen(self, ranges: tuple[Range, ...], name: str) -> Expr:
        """An attribute of the range in which this tile's row lies."""
        value = i64(getattr(ranges[0], name))
        for each in ranges[1:]:
            value = tirx.Select(self.row >= each.first, i64(getattr(each, name)), value)
        # TVM's analysis of what buffers hold takes a second for a bound expression.
        variable = Register("int64", 1)
        variable.set(value)
        return variable.get()

    def _bias(self, pixel: tuple[int, int], lane: Expr) -> list[Expr]:
        """Bias of every vector, with what a pixel at the border of the image leaves out."""
        plan, (i, j), rows = self.plan, pixel, self.patch.rows
        if plan.border_count == 1:
            at = lane
        else:
            border = self._chosen(rows.ranges, "border") if rows.ranges else rows.borders[i]
            border = border * len(plan.input.axes[1].borders) + self.patch.columns.borders[j]
            at = T.bind(lane + border * plan.param_count)
        return [load(self.bias, at + start, w) for start, w in zip(self._starts, self.vectors)]

    def _reduce(self, x_at: Expr, lane: Expr, acc: list[list[Register]]) -> None:
        plan, isa = self.plan, self.plan.isa
        per = 8 // plan.workload.w_bits
        base = T.bind(lane * (plan.weight_count // plan.param_count))
        packed = [Register(isa.packed_dtype, width) for width in self.vectors if per > 1]
        sums = acc
        if isa.flush:
            sums = [[Register("int16", 2 * width) for width in self.vectors] for _ in self._pixels]
            self._clear(sums)

        def loop(first: Expr, words: int | Expr, pixels: tuple[tuple[int, int], ...]) -> None:
            """The steps of ``words`` words of weights."""
            used = [row if pixel in pixels else None for pixel, row in zip(self._pixels, sums)]

            def body(index: Expr) -> None:
                self._prefetch(base, index)
                if per == 1:
                    self._whole_step(base, index, x_at, used)
                else:
                    self._word(base, index, x_at, packed, used)

            if isinstance(words, int):
                words = None if words == -(-plan.input.steps // per) else i64(words)
            self._loop(words, first, body, per)

        def flushed(first: Expr, words: int | Expr, pixels: tuple[tuple[int, int], ...]) -> None:
            """The same, in turns after which the narrow sums are added to the wide ones."""
            words = i64(words) if isinstance(words, int) else words
            with T.serial((words + (span - 1)) // span) as turn:
                done = T.bind(turn * span)
                loop(T.bind(first + done), T.min(i64(span), words - done), pixels)
                self._flush(sums, acc)

        def run(pieces: list[tuple[Expr, int | Expr, tuple[tuple[int, int], ...]]]) -> None:
            """Loops one after the other; narrow sums last over as many as they can hold."""
            pending = 0
            for first, words, pixels in pieces:
                short = isinstance(words, int) and words <= span
                if pending and not (short and pending + words <= span):
                    self._flush(sums, acc)
                    pending = 0
                if short:
                    loop(first, words, pixels)
                    pending += words
                elif isa.flush:
                    flushed(first, words, pixels)
                else:
                    loop(first, words, pixels)
            if pending and isa.flush:
                self._flush(sums, acc)

        span = isa.flush // per if isa.flush else 0
        row_steps = plan.input.sweep_steps
        for sweep in plan.input.sweeps(self.patch):
            parts, rows = sweep.parts, sweep.end - sweep.start
            if len(parts) == 1 and parts[0].count == row_steps and not sweep.ranges:
                first = i64(sweep.start * row_steps // per)
                run([(first, -(-rows * row_steps // per), parts[0].pixels)])
                continue
            start, rows = i64(sweep.start), i64(rows)
            if sweep.ranges:
                start = T.bind(self._chosen(sweep.ranges, "start"))
                rows = T.bind(self._chosen(sweep.ranges, "end") - start)
            with T.serial(rows) as row:
                at = T.bind((start + row) * (row_steps // per))
                run([(at + p.first // per, p.count // per, p.pixels) for p in parts])

    def _clear(self, sums: list[list[Register]]) -> None:
        for register in (register for row in sums for register in row):
            register.set(splat("int16", 0, register.lanes))

    def _flush(self, sums: list[list[Register]], acc: list[list[Register]]) -> None:
        """Add the narrow sums to the wide ones."""
        for row, wide_row in zip(sums, acc):
            for narrow, wide, width in zip(row, wide_row, self.vectors):
                wide.set(wide.get() + self.plan.isa.widen(narrow.get(), width))
        self._clear(sums)

    def _weight_offsets(self, base: Expr, word: Expr) -> list[Expr]:
        step = self.plan.isa.step
        at = T.bind(base + word * (sum(self.vectors) * step))
        return [at + start * step for start in self._starts]

    def _prefetch(self, base: Expr, word: Expr) -> None:
        """Fetch a part of the next block's weights: every tile of a chunk its share."""
        plan = self.plan
        share = plan.prefetch_share
        if not share:
            return
        block = plan.words * (sum(self.vectors) * plan.isa.step)
        start = base + block + (self.turn * plan.words + word) * share
        for i in range(-(-share // _LINE)):
            place = T.address_of(self.weights[start + i * _LINE])
            read, near, data = T.int32(0), T.int32(3), T.int32(1)
            T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch.p0", place, read, near, data))

    def _whole_step(self, base: Expr, index: Expr, x_at: Expr, sums: Sums) -> None:
        weights = [
            T.bind(self.plan.isa.load_weight(self.weights, at, width))
            for at, width in zip(self._weight_offsets(base, index), self.vectors)
        ]
        self._step(x_at, index, weights, sums)

    def _word(
        self,
        base: Expr,
        word: Expr,
        x_at: Expr,
        packed: list[Register],
        sums: Sums,
    ) -> None:
        """The steps whose sub-byte weights share their bytes."""
        isa, bits = self.plan.isa, self.plan.workload.w_bits
        per = 8 // bits
        for register, at, width in zip(packed, self._weight_offsets(base, word), self.vectors):
            register.set(isa.load_packed(self.weights, at, width))

        def unpacked() -> list[Expr]:
            return [
                T.bind(isa.unpack(register.get(), bits, width))
                for register, width in zip(packed, self.vectors)
            ]

        def shift() -> None:
            for register, width in zip(packed, self.vectors):
                register.set(register.get() << splat(isa.packed_dtype, bits, width))

        first = T.bind(word * per)
        if self.plan.input.steps % per == 0 and per <= _UNROLLED:
            for piece in range(per):
                if piece:
                    shift()
                self._step(x_at, T.bind(first + piece), unpacked(), sums)
            return

        def body(index: Expr) -> None:
            weights = unpacked()
            shift()
            self._step(x_at, index, weights, sums)

        self._loop(T.min(i64(per), i64(self.plan.input.steps) - first), first, body)

    def _step(self, x_at: Expr, index: Expr, weights: list[Expr], sums: Sums) -> None:
        isa = self.plan.isa
        offset = T.bind(x_at + self._offset(index))
        for (i, j), row in zip(self._pixels, sums):
            if row is None:
                continue
            x = isa.load_x(self.reads, offset + self.plan.input.pixel(i, j))
            for register, weight, width in zip(row, weights, self.vectors):
                register.set(isa.dot(register.get(), x, weight, width))

    def _offset(self, index: Expr) -> Expr:
        source = self.plan.input
        if self.table is not None:
            return tirx.Cast("int64", self.table[index])
        if source.run % source.step == 0 or source.run < source.step:
            return index * source.step
        return T.min(index * source.step, i64(source.run - source.step))

    def _loop(
        self, count: Expr | None, first: Expr, body: Callable[[Expr], None], stride: int = 1
    ) -> None:
        """Loop over ``count`` groups of ``stride`` steps from ``first``; ``None`` means all."""
        if not self.plan.isa.rolled:
            extent = i64(-(-self.plan.input.steps // stride)) if count is None else count
            with T.serial(extent) as index:
                body(T.bind(first + index))
            return
        # The end is marked in the table, so that LLVM cannot count the iterations: it would
        # unroll the loop and reassociate the sums until the accumulators leave the registers.
        index = Register("int64", 1)
        index.set(first)
        more = self.table[index.get() * stride] >= 0
        if count is not None:
            more = tirx.all(index.get() < T.bind(first + count), more)
        with T.While(more):
            now = T.bind(index.get())
            body(now)
            index.set(now + 1)
