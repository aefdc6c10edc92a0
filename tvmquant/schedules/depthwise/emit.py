"""PrimFunc of an integer depthwise convolution.

Every parallel task takes one channel block and some row tiles of one image. It unpacks the
block's weights into slots, then for every row tile: copies the input lines into slots, padding
included, and computes all output columns from them, requantized, ``rows × columns`` at a time.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvmquant.schedules.depthwise.dots import Dot
from tvmquant.schedules.depthwise.epilogue import Output, requantize_vector
from tvmquant.schedules.depthwise.plan import Plan
from tvmquant.schedules.depthwise.unpack import unpack_weights
from tvmquant.schedules.functions import argument, flat, mark, requantize_arguments
from tvmquant.schedules.linear.tir import (
    Expr,
    broadcast,
    i64,
    load,
    ramp,
    splat,
    store,
)
from tvmquant.schedules.workload import Workload

# A tile with more multiply steps than this loops over the kernel's columns.
_UNROLL = 384


class _Variable:
    """A vector variable. LLVM keeps small buffers with constant indices in registers."""

    def __init__(self, dtype: str, lanes: int, value: Expr) -> None:
        self.lanes = lanes
        # Not "local": on the CPU that scope is always allocated on the heap.
        self.buffer = T.alloc_buffer((i64(lanes),), dtype)
        self.set(value)

    def get(self) -> Expr:
        return load(self.buffer, i64(0), self.lanes)

    def set(self, value: Expr) -> None:
        store(self.buffer, value, i64(0), self.lanes)


class DepthwiseEmitter:
    """Writes the PrimFunc.

    Parameters
    ----------
    workload : Workload
    plan : Plan
    dot : Dot
    """

    def __init__(self, workload: Workload, plan: Plan, dot: Dot) -> None:
        self.workload, self.plan, self.dot = workload, plan, dot
        self.kh, self.kw = workload.w_shape[1:3]
        self.x_slot = dot.parts * dot.x_vector
        self.w_slot = dot.parts * dot.operands * dot.w_vector
        self.weight_bytes = -(-self.kh * self.kw * workload.w_bits // 8)

    def prim_func(self, name: str) -> Any:
        """Build ``(x, weight, bias, *params, qinfo, out)``."""
        w, plan = self.workload, self.plan
        with IRBuilder() as builder:
            with T.prim_func(s_tir=True):
                mark(name)
                self.x = argument("x", w.x_shape, "uint8")
                shape = (plan.blocks, self.weight_bytes, plan.width)
                self.weight = argument("weight", shape, "uint8")
                shape = (plan.blocks, plan.width)
                self.bias = argument("bias", shape, "int32")
                self.params = requantize_arguments(w, shape)
                qinfo = argument("qinfo", (4,), "int32")
                self.out = argument("out", w.out_shape, w.out_dtype)
                values = [T.bind(qinfo[i64(i)]) for i in range(4)]
                self.x_zero_point = T.bind(tirx.Cast("uint8", values[0]))
                self.output = Output(*values[1:])
                tasks = plan.blocks * w.x_shape[0] * plan.tasks_per_block
                with (T.parallel if plan.parallel else T.serial)(i64(tasks)) as task:
                    self._task(task)
        return builder.get()

    def _task(self, task: Expr) -> None:
        w, plan = self.workload, self.plan
        per_block = w.x_shape[0] * plan.tasks_per_block
        self.block = T.bind(tirx.floordiv(task, i64(per_block)))
        rest = tirx.floormod(task, i64(per_block))
        self.image = T.bind(tirx.floordiv(rest, i64(plan.tasks_per_block)))
        part = tirx.floormod(rest, i64(plan.tasks_per_block))
        last = i64(max(plan.channels - plan.width, 0))
        self.channel = T.bind(tirx.min(self.block * plan.width, last))
        self._unpack_weights()
        size = plan.needed_columns * plan.slots * self.x_slot
        self.slots = T.alloc_buffer((i64(size),), self.dot.x_dtype)
        tiles = -(-plan.row_tiles // plan.tasks_per_block)
        with T.serial(i64(tiles)) as tile:
            # The last tiles move back inside: rows are computed twice rather than tested for.
            row = T.bind(
                tirx.min((part * tiles + tile) * plan.rows, i64(w.out_shape[1] - plan.rows))
            )
            self._gather(T.bind(row * w.strides[0] - w.padding[0]))
            with T.serial(i64(plan.column_tiles)) as column_tile:
                column = tirx.min(column_tile * plan.columns, i64(w.out_shape[2] - plan.columns))
                self._tile(row, T.bind(column))

    # Weights ---------------------------------------------------------------------------------

    def _unpack_weights(self) -> None:
        """Fill ``w_slots``: ``[kw, taps of the plan, part, operand, vector]``."""
        plan, dot, width = self.plan, self.dot, self.plan.width
        base = T.bind(self.block * (self.weight_bytes * width))
        bits = self.workload.w_bits
        taps = unpack_weights(flat(self.weight), base, self.weight_bytes, bits, width)
        self.w_slots = T.alloc_buffer((i64(self.kw * len(plan.taps) * self.w_slot),), dot.w_dtype)
        zero = splat("int8", 0, width)
        with T.serial(i64(self.kw)) as kw:
            for index, (_, _, kernel_rows) in enumerate(plan.taps):
                lines = [
                    zero if kh is None else load(taps, (kw * self.kh + kh) * width, width)
                    for kh in kernel_rows
                ]
                base = (kw * len(plan.taps) + index) * self.w_slot
                parts = dot.interleave_weights(lines)
                for j, vector in enumerate(v for part in parts for v in part):
                    store(self.w_slots, vector, base + j * dot.w_vector, dot.w_vector)

    # Input -----------------------------------------------------------------------------------

    def _gather(self, top: Expr) -> None:
        """Copy the lines from input row ``top`` on into ``slots``: ``[column, slot, part, …]``."""
        w, plan, dot = self.workload, self.plan, self.dot
        left, width = w.padding[1], w.x_shape[2]
        first = min(left, plan.needed_columns)
        end = max(min(left + width, plan.needed_columns), first)
        vectors = plan.slots * dot.parts
        for start, count in ((0, first), (end, plan.needed_columns - end)):
            if count:
                with T.serial(i64(count * vectors)) as i:
                    base = i64(start * plan.slots * self.x_slot) + i * dot.x_vector
                    store(self.slots, dot.pad_value(self.x_zero_point), base, dot.x_vector)
        if end == first:
            return
        height = w.x_shape[1]
        never = (
            w.padding[0] == 0
            and (w.out_shape[1] - 1) * w.strides[0] + (self.kh - 1) * w.dilation[0] < height
        )
        if never:
            self._gather_columns(top, first, end, False)
            return
        with T.If(tirx.all(top >= 0, top + plan.lines[-1] < height)):
            with T.Then():
                self._gather_columns(top, first, end, False)
            with T.Else():
                self._gather_columns(top, first, end, True)

    def _gather_columns(self, top: Expr, first: int, end: int, border: bool) -> None:
        plan, dot, height = self.plan, self.dot, self.workload.x_shape[1]
        pad = broadcast(self.x_zero_point, plan.width)
        inside = []
        if border:
            inside = [T.bind(tirx.all(top + line >= 0, top + line < height)) for line in plan.lines]
        with T.serial(i64(end - first)) as i:
            lines = []
            for index, line in enumerate(plan.lines):
                row = top + line
                if border:
                    row = tirx.max(tirx.min(row, i64(height - 1)), i64(0))
                value = self._load_x(row, i + (first - self.workload.padding[1]))
                if border:
                    value = tirx.Select(broadcast(inside[index], plan.width), value, pad)
                lines.append(T.bind(value))
            # What stands in for missing lines meets zero weights only.
            lines += [lines[-1]] * (plan.slots * plan.group - len(lines))
            for slot in range(plan.slots):
                base = T.bind(((i + first) * plan.slots + slot) * self.x_slot)
                held = lines[slot * plan.group : (slot + 1) * plan.group]
                for p, vector in enumerate(dot.interleave(held)):
                    store(self.slots, vector, base + p * dot.x_vector, dot.x_vector)

    def _load_x(self, row: Expr, column: Expr) -> Expr:
        """uint8 vector of the input channels that the block's lanes need."""
        w, width, channels = self.workload, self.plan.width, self.plan.channels
        multiplier = channels // w.x_shape[3]
        if multiplier == 1 and channels >= width:
            return self.x[self.image, row, column, ramp(self.channel, width)]
        lanes = [tirx.min(self.channel + lane, i64(channels - 1)) for lane in range(width)]
        scalars = [
            self.x[self.image, row, column, tirx.floordiv(lane, i64(multiplier))] for lane in lanes
        ]
        return tirx.Shuffle(scalars, list(range(width)))

    # Output ----------------------------------------------------------------------------------

    def _tile(self, row: Expr, column: Expr) -> None:
        """Compute ``rows × columns`` pixels of the block."""
        w, plan, dot = self.workload, self.plan, self.dot
        pixels = [(r, p) for r in range(plan.rows) for p in range(plan.columns)]
        results: dict[tuple[int, int], list[Expr]] = {pixel: [] for pixel in pixels}
        for part in range(dot.parts):
            lane = i64(part * dot.lanes)
            bias = T.bind(self.bias[self.block, ramp(lane, dot.lanes)])
            params = [T.bind(p[self.block, ramp(lane, dot.lanes)]) for p in self.params]
            sums = {pixel: _Variable("int32", dot.lanes, bias) for pixel in pixels}
            self._accumulate(sums, column, part)
            for pixel in pixels:
                value = requantize_vector(
                    w.requantize,
                    sums[pixel].get(),
                    params,
                    self.output,
                    dot.lanes,
                    dot.round,
                    dot.clamps_low,
                )
                results[pixel].append(T.bind(value))
        for (r, p), parts in results.items():
            self._store(row + r, column + p, parts)

    def _accumulate(self, sums: dict[tuple[int, int], _Variable], column: Expr, part: int) -> None:
        w, plan, dot = self.workload, self.plan, self.dot
        steps = self.kw * len(plan.taps) * plan.columns
        looped = steps * dot.parts > _UNROLL and self.kw > 1
        for unrolled in range(1 if looped else self.kw):
            with T.serial(i64(self.kw)) if looped else nullcontext(i64(unrolled)) as kw:
                tap_base = kw * len(plan.taps)
                first = (column * w.strides[1] + kw * w.dilation[1]) * plan.slots
                for slot in range(plan.slots):
                    taps = [n for n, tap in enumerate(plan.taps) if tap[1] == slot]
                    weights = {
                        plan.taps[n][0]: self._load_weight(
                            tap_base + n, part, dot.needed(plan.taps[n][2])
                        )
                        for n in taps
                    }
                    for p in range(plan.columns):
                        base = (first + (p * w.strides[1] * plan.slots + slot)) * self.x_slot
                        base = base + part * dot.x_vector
                        x = [T.bind(v) for v in dot.prepare(load(self.slots, base, dot.x_vector))]
                        for r, weight in weights.items():
                            total = sums[r, p]
                            total.set(dot.dot(total.get(), x, weight))

    def _load_weight(self, tap: Expr, part: int, needed: list[bool]) -> list[Expr | None]:
        dot = self.dot
        base = tap * self.w_slot + part * dot.operands * dot.w_vector
        return [
            T.bind(load(self.w_slots, base + k * dot.w_vector, dot.w_vector)) if use else None
            for k, use in enumerate(needed)
        ]

    def _store(self, row: Expr, column: Expr, parts: list[Expr]) -> None:
        plan, dot = self.plan, self.dot
        index = [self.image, row, column]
        if self.workload.out_dtype == "uint8":
            packed = dot.pack(parts, self.output.zero_point, self.output.low)
            if plan.channels >= plan.width:
                T.buffer_store(self.out, packed, [*index, ramp(self.channel, plan.width)])
                return
            packed = T.bind(packed)
            for c in range(plan.channels):
                T.buffer_store(self.out, tirx.Shuffle([packed], [c]), [*index, i64(c)])
            return
        # Runs of four consecutive channels, one accumulator each.
        for lane, channel in enumerate(int(c) for c in dot.channel_order()):
            part, within = divmod(lane, dot.lanes)
            if plan.channels < plan.width:
                if channel < plan.channels:
                    value = tirx.Shuffle([parts[part]], [within])
                    T.buffer_store(self.out, value, [*index, i64(channel)])
            elif lane % 4 == 0:
                value = tirx.Shuffle([parts[part]], list(range(within, within + 4)))
                T.buffer_store(self.out, value, [*index, ramp(self.channel + channel, 4)])
