"""The PrimFunc of a dense integer kernel.

Loop nest, outermost first: images, chunks of pixels and blocks (shared out to the threads),
groups, blocks of output channels, register tiles, reduction steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.epilogue import PARAM_DTYPES, Epilogue
from tvmquant.schedules.linear.geometry import InputPlan
from tvmquant.schedules.linear.isa import InstructionSet
from tvmquant.schedules.linear.tiling import Tiling
from tvmquant.schedules.linear.tir import Expr, Register, i64, load, splat
from tvmquant.schedules.linear.workspace import emit_copy
from tvmquant.schedules.workload import Workload


@dataclass(frozen=True)
class Plan:
    """Everything that decides the code of one kernel."""

    workload: Workload
    isa: InstructionSet
    input: InputPlan
    tiling: Tiling

    @property
    def weight_count(self) -> int:
        """Elements of the packed weights."""
        per = 8 // self.workload.w_bits
        words = -(-self.input.steps // per) * self.input.step
        return self.input.geometry.groups * self.tiling.group_lanes * words

    @property
    def param_count(self) -> int:
        """Elements of the bias and of each requantize parameter."""
        return self.input.geometry.groups * self.tiling.group_lanes

    @property
    def has_table(self) -> bool:
        """Whether the offsets of the reduction steps come from a table."""
        return len(self.input.run_starts) > 1 or self.isa.rolled

    @property
    def offsets(self) -> np.ndarray:
        """int32 ``[steps + 1]``: offset of every step, then the mark of the end."""
        return np.append(self.input.offsets, np.int32(-1))


def emit_prim_func(plan: Plan, name: str) -> tirx.PrimFunc:
    """Build ``(x, weights, bias, *params, [offsets], qinfo, out)``."""
    workload, flavour = plan.workload, plan.workload.requantize
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            x = _arg("x", workload.x_shape, "uint8")
            w = _arg("w", (plan.weight_count,), "int8" if workload.w_bits == 8 else "uint8")
            bias = _arg("bias", (plan.param_count,), "int32")
            params = [
                _arg(f"param{i}", (plan.param_count,), dtype)
                for i, dtype in enumerate(PARAM_DTYPES[flavour])
            ]
            table = _arg("offsets", (plan.input.steps + 1,), "int32") if plan.has_table else None
            qinfo = _arg("qinfo", (4,), "int32")
            out = _arg("out", workload.out_shape, workload.out_dtype)
            T.func_attr(
                {
                    "global_symbol": name,
                    "tirx.noalias": True,
                    "tvmquant.scheduled": True,
                    "op_pattern": 8,
                }
            )
            flat_out = _flat(out, workload.out_shape, workload.out_dtype)
            numbers = [T.bind(qinfo[i64(i)]) for i in range(4)]
            epilogue = Epilogue(flavour, plan.isa.x86, flat_out, params, *numbers[1:])
            flat_x = _flat(x, workload.x_shape, "uint8")
            _Nest(plan, flat_x, w, bias, table, epilogue).emit(numbers[0])
    return builder.get()


def _arg(name: str, shape: tuple[int, ...], dtype: str) -> Expr:
    return T.arg(name, T.Buffer(tuple(i64(d) for d in shape), dtype))


def _flat(buffer: Expr, shape: tuple[int, ...], dtype: str) -> Expr:
    size = 1
    for extent in shape:
        size *= extent
    return T.decl_buffer((i64(size),), dtype, data=buffer.data)


@dataclass(frozen=True)
class _Place:
    """Where a group begins: in the input, in the output, among the padded channels."""

    reads: Expr
    x_base: Expr
    out_base: Expr
    lane_base: Expr


@dataclass
class _Nest:
    plan: Plan
    x: Expr
    w: Expr
    bias: Expr
    table: Expr | None
    epilogue: Epilogue

    def emit(self, x_zero_point: Expr) -> None:
        source, tiling = self.plan.input, self.plan.tiling
        g = source.geometry
        work = None
        if source.copied:
            work = T.alloc_buffer((i64(source.workspace),), source.dtype)
        image_size = g.height * g.width * g.channels
        with T.serial(i64(g.images)) as image:
            if work is not None:
                base = T.bind(image * image_size)
                emit_copy(source, self.x, base, work, x_zero_point, tiling.parallel)
            x_base = image * image_size if work is None else i64(0)
            reads = self.x if work is None else work
            out_base = image * (g.out[0] * g.out[1] * g.out_channels)
            loop = T.parallel if tiling.parallel else T.serial
            with loop(i64(tiling.chunks * tiling.block_chunks)) as chunk:
                self._chunk(chunk, reads, T.bind(x_base), T.bind(out_base))

    def _chunk(self, chunk: Expr, reads: Expr, x_base: Expr, out_base: Expr) -> None:
        plan, tiling = self.plan, self.plan.tiling
        g = plan.input.geometry
        pixels, part = chunk, i64(0)
        if tiling.block_chunks > 1:
            pixels = T.bind(chunk // tiling.block_chunks)
            part = T.bind(chunk % tiling.block_chunks)
        first_tile = T.bind(pixels * tiling.chunk_tiles)
        tiles = T.bind(T.min(i64(tiling.chunk_tiles), i64(tiling.tiles(g)) - first_tile))
        first_block = part * tiling.block_share
        blocks = T.min(i64(tiling.block_share), i64(tiling.full_blocks) - first_block)
        with T.serial(i64(g.groups)) as group:
            place = _Place(
                reads,
                T.bind(x_base + group * (plan.input.channels // g.groups)),
                T.bind(out_base + group * g.group_outputs),
                T.bind(group * tiling.group_lanes),
            )
            lanes = sum(tiling.vectors)
            with T.serial(blocks) as block:
                channel = T.bind((first_block + block) * lanes)
                valid = lanes if tiling.tail else min(lanes, g.group_outputs)
                self._block(place, channel, tiling.vectors, valid, first_tile, tiles)
            if not tiling.tail:
                return
            channel = tiling.full_blocks * lanes
            rest = (i64(channel), tiling.tail, g.group_outputs - channel, first_tile, tiles)
            if tiling.block_chunks == 1:
                self._block(place, *rest)
                return
            with T.If(part == tiling.block_chunks - 1), T.Then():
                self._block(place, *rest)

    def _block(
        self,
        place: _Place,
        channel: Expr,
        vectors: tuple[int, ...],
        valid: int,
        first_tile: Expr,
        tiles: Expr,
    ) -> None:
        plan, tiling = self.plan, self.plan.tiling
        g = plan.input.geometry
        per_row = -(-g.out[1] // tiling.columns)
        with T.serial(tiles) as index:
            tile = T.bind(first_tile + index)
            row, column = i64(0), tile
            if g.out[0] > 1:
                row, column = tile // per_row, tile % per_row
            row = T.bind(T.min(row * tiling.rows, i64(g.out[0] - tiling.rows)))
            column = T.bind(T.min(column * tiling.columns, i64(g.out[1] - tiling.columns)))
            x_at = T.bind(place.x_base + _pixel(plan, row, column))
            out_at = T.bind(
                place.out_base + (row * g.out[1] + column) * g.out_channels + channel
            )
            lane = T.bind(place.lane_base + channel)
            self._tile(place.reads, x_at, out_at, lane, vectors, valid)

    def _tile(
        self,
        reads: Expr,
        x_at: Expr,
        out_at: Expr,
        lane: Expr,
        vectors: tuple[int, ...],
        valid: int,
    ) -> None:
        plan, isa, tiling = self.plan, self.plan.isa, self.plan.tiling
        g = plan.input.geometry
        shift = isa.scale_shift(plan.workload.w_bits)
        starts = [sum(vectors[:i]) for i in range(len(vectors))]
        pixels = [(i, j) for i in range(tiling.rows) for j in range(tiling.columns)]
        acc = [[Register("int32", width) for width in vectors] for _ in pixels]
        for row in acc:
            for register, start, width in zip(row, starts, vectors):
                # A scaled sum gets its bias after it was scaled back.
                zero = splat("int32", 0, width)
                register.set(zero if shift else load(self.bias, lane + start, width))
        x_pixels = [plan.input.pixel(i, j) for i, j in pixels]

        def step(index: Expr, weights: list[Expr]) -> None:
            offset = T.bind(x_at + self._offset(index))
            for row, delta in zip(acc, x_pixels):
                x = T.bind(isa.load_x(reads, offset + delta))
                for register, weight, width in zip(row, weights, vectors):
                    register.set(isa.dot(register.get(), x, weight, width))

        self._reduce(lane, vectors, starts, step)
        for (i, j), row in zip(pixels, acc):
            sums = [register.get() for register in row]
            if shift:
                sums = [
                    (value >> splat("int32", shift, width)) + load(self.bias, lane + start, width)
                    for value, start, width in zip(sums, starts, vectors)
                ]
            at = out_at + (i * g.out[1] + j) * g.out_channels
            self.epilogue.emit(sums, list(vectors), lane, at, valid)

    def _reduce(
        self,
        lane: Expr,
        vectors: tuple[int, ...],
        starts: list[int],
        step: Callable[[Expr, list[Expr]], None],
    ) -> None:
        """Loop over the steps; ``lane`` is where the block begins among all padded channels."""
        plan, isa, bits = self.plan, self.plan.isa, self.plan.workload.w_bits
        steps, per = plan.input.steps, 8 // bits
        base = T.bind(lane * (plan.weight_count // plan.param_count))
        stride = sum(vectors) * isa.step

        def addresses(word: Expr) -> list[Expr]:
            at = T.bind(base + word * stride)
            return [at + start * isa.step for start in starts]

        def whole(index: Expr) -> None:
            weights = [
                T.bind(isa.load_weight(self.w, at, width))
                for at, width in zip(addresses(index), vectors)
            ]
            step(index, weights)

        if per == 1:
            self._loop(None, i64(0), whole)
            return
        packed = [Register(isa.packed_dtype, width) for width in vectors]
        with T.serial(i64(-(-steps // per))) as word:
            for register, at, width in zip(packed, addresses(word), vectors):
                register.set(isa.load_packed(self.w, at, width))

            def piece(index: Expr) -> None:
                weights = [
                    T.bind(isa.unpack(register.get(), bits, width))
                    for register, width in zip(packed, vectors)
                ]
                for register, width in zip(packed, vectors):
                    register.set(register.get() << splat(isa.packed_dtype, bits, width))
                step(index, weights)

            first = T.bind(word * per)
            self._loop(T.min(i64(per), i64(steps) - first), first, piece)

    def _loop(self, count: Expr | None, first: Expr, body: Callable[[Expr], None]) -> None:
        """Loop over ``count`` reduction steps from ``first``; ``None`` means to the last step."""
        if not self.plan.isa.rolled:
            with T.serial(i64(self.plan.input.steps) if count is None else count) as index:
                body(T.bind(first + index))
            return
        # The end is marked in the table, so that LLVM cannot count the iterations: it would
        # unroll the loop and reassociate the sums until the accumulators leave the registers.
        index = Register("int64", 1)
        index.set(first)
        more = self.table[index.get()] >= 0
        if count is not None:
            more = tirx.all(index.get() < T.bind(first + count), more)
        with T.While(more):
            now = T.bind(index.get())
            body(now)
            index.set(now + 1)

    def _offset(self, index: Expr) -> Expr:
        source = self.plan.input
        if self.table is not None:
            return tirx.Cast("int64", self.table[index])
        if source.run % source.step == 0 or source.run < source.step:
            return index * source.step
        return T.min(index * source.step, i64(source.run - source.step))


def _pixel(plan: Plan, row: Expr, column: Expr) -> Expr:
    rows, columns = plan.input.pixel(1, 0), plan.input.pixel(0, 1)
    return row * rows + column * columns
