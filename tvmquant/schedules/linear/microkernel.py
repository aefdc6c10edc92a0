"""The code of one register tile: all reduction steps, then the epilogue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.epilogue import Epilogue
from tvmquant.schedules.linear.plan import Plan
from tvmquant.schedules.linear.tir import Expr, Register, i64, load, splat


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
    """

    plan: Plan
    reads: Expr
    weights: Expr
    bias: Expr
    table: Expr | None
    epilogue: Epilogue
    vectors: tuple[int, ...]
    valid: int

    @cached_property
    def _starts(self) -> list[int]:
        return [sum(self.vectors[:i]) for i in range(len(self.vectors))]

    @cached_property
    def _pixels(self) -> list[tuple[int, int]]:
        tiling = self.plan.tiling
        return [(i, j) for i in range(tiling.rows) for j in range(tiling.columns)]

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
        for row in acc:
            for register, start, width in zip(row, self._starts, self.vectors):
                # A scaled sum gets its bias after it was scaled back.
                zero = splat("int32", 0, width)
                register.set(zero if shift else load(self.bias, lane + start, width))
        self._reduce(x_at, lane, acc)
        for (i, j), row in zip(self._pixels, acc):
            values = [register.get() for register in row]
            if shift:
                values = [
                    (value >> splat("int32", shift, width)) + load(self.bias, lane + start, width)
                    for value, start, width in zip(values, self._starts, self.vectors)
                ]
            at = out_at + (i * g.out[1] + j) * g.out_channels
            self.epilogue.emit(values, list(self.vectors), lane, at, self.valid)

    def _reduce(self, x_at: Expr, lane: Expr, acc: list[list[Register]]) -> None:
        plan, isa = self.plan, self.plan.isa
        per = 8 // plan.workload.w_bits
        words = -(-plan.input.steps // per)
        base = T.bind(lane * (plan.weight_count // plan.param_count))
        if per == 1:
            self._loop(None, i64(0), lambda index: self._whole_step(base, index, x_at, acc))
            return
        packed = [Register(isa.packed_dtype, width) for width in self.vectors]
        if not isa.flush:
            self._loop(None, i64(0), lambda word: self._word(base, word, x_at, packed, acc), per)
            return
        sums = [[Register("int16", 2 * width) for width in self.vectors] for _ in self._pixels]
        span = isa.flush // per
        with T.serial(i64(-(-words // span))) as turn:
            first = T.bind(turn * span)
            for row in sums:
                for register, width in zip(row, self.vectors):
                    register.set(splat("int16", 0, 2 * width))
            count = T.min(i64(span), i64(words) - first)
            self._loop(count, first, lambda word: self._word(base, word, x_at, packed, sums), per)
            for row, wide_row in zip(sums, acc):
                for narrow, wide, width in zip(row, wide_row, self.vectors):
                    wide.set(wide.get() + isa.widen(narrow.get(), width))

    def _weight_offsets(self, base: Expr, word: Expr) -> list[Expr]:
        step = self.plan.isa.step
        at = T.bind(base + word * (sum(self.vectors) * step))
        return [at + start * step for start in self._starts]

    def _whole_step(self, base: Expr, index: Expr, x_at: Expr, sums: list[list[Register]]) -> None:
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
        sums: list[list[Register]],
    ) -> None:
        """The steps whose sub-byte weights share their bytes."""
        isa, bits = self.plan.isa, self.plan.workload.w_bits
        per = 8 // bits
        for register, at, width in zip(packed, self._weight_offsets(base, word), self.vectors):
            register.set(isa.load_packed(self.weights, at, width))

        def piece(index: Expr) -> None:
            weights = [
                T.bind(isa.unpack(register.get(), bits, width))
                for register, width in zip(packed, self.vectors)
            ]
            for register, width in zip(packed, self.vectors):
                register.set(register.get() << splat(isa.packed_dtype, bits, width))
            self._step(x_at, index, weights, sums)

        first = T.bind(word * per)
        self._loop(T.min(i64(per), i64(self.plan.input.steps) - first), first, piece)

    def _step(
        self, x_at: Expr, index: Expr, weights: list[Expr], sums: list[list[Register]]
    ) -> None:
        isa = self.plan.isa
        offset = T.bind(x_at + self._offset(index))
        for (i, j), row in zip(self._pixels, sums):
            x = T.bind(isa.load_x(self.reads, offset + self.plan.input.pixel(i, j)))
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
