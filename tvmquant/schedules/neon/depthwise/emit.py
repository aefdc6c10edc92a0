"""The PrimFunc of a NEON depthwise convolution.

A task takes a block of channels of a band of output rows. It copies the lines that the band reads
into a workspace, padded and in the form of :mod:`.chains`, then computes tiles of a row's columns
from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvmquant.schedules.depthwise.unpack import unpack_weights
from tvmquant.schedules.functions import argument, flat, loop, mark
from tvmquant.schedules.linear.epilogue import PARAM_DTYPES
from tvmquant.schedules.linear.tir import Expr, cast, i64, load, splat
from tvmquant.schedules.neon.depthwise.chains import Chain, Form
from tvmquant.schedules.neon.depthwise.copy import Copy
from tvmquant.schedules.neon.depthwise.plan import WIDTH, Plan
from tvmquant.schedules.neon.epilogue import Epilogue
from tvmquant.schedules.neon.vectors import neon, part, wrapping


def emit_prim_func(plan: Plan, form: Form, name: str) -> tirx.PrimFunc:
    """Build ``(x, weight, bias, *params, qinfo, out)``."""
    w = plan.workload
    taps = w.w_shape[1] * w.w_shape[2]
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            x = argument("x", w.x_shape, "uint8")
            shape = (plan.blocks, -(-taps * w.w_bits // 8), WIDTH)
            weight = argument("weight", shape, "uint8")
            bias = argument("bias", (form.colours, plan.blocks, WIDTH), "int32")
            params = [
                argument(f"param{i}", (plan.blocks, WIDTH), dtype)
                for i, dtype in enumerate(PARAM_DTYPES[w.requantize])
            ]
            qinfo = argument("qinfo", (4,), "int32")
            out = argument("out", w.out_shape, w.out_dtype)
            mark(name)
            numbers = [T.bind(qinfo[i64(i)]) for i in range(4)]
            epilogue = Epilogue(
                w.requantize, flat(out), [flat(param) for param in params], *numbers[1:]
            )
            copy = Copy(plan, form, flat(x), T.bind(tirx.Cast("uint8", numbers[0])))
            _Nest(plan, form, copy, flat(weight), flat(bias), epilogue).emit()
    return builder.get()


@dataclass
class _Nest:
    plan: Plan
    form: Form
    copy: Copy
    weight: Expr
    bias: Expr
    epilogue: Epilogue

    def emit(self) -> None:
        plan, w = self.plan, self.plan.workload
        images, out_rows, _, channels = w.out_shape
        band = plan.sizes.band
        with loop(images * plan.bands * plan.blocks, plan.parallel) as task:
            # Neighbouring blocks of one band read the same cache lines.
            block = T.bind(task % plan.blocks)
            at = T.bind(task // plan.blocks)
            image, index = T.bind(at // plan.bands), T.bind(at % plan.bands)
            first = T.bind(index * band)
            rows = i64(band)
            if out_rows % band:
                rows = T.bind(T.min(rows, i64(out_rows) - first))
            channel = T.bind(T.min(block * WIDTH, i64(channels - WIDTH)))
            work = T.alloc_buffer((i64(plan.lines(band) * plan.read_columns * WIDTH),), "int8")
            lines = T.bind((rows - 1) * w.strides[0] + plan.span)
            self.copy.emit(work, image, first, lines, channel)
            weights = self._weights(block)
            out = T.bind((image * out_rows + first) * (w.out_shape[2] * channels) + channel)
            with T.serial(rows) as row:
                self._row(work, weights, block, row, out)

    def _weights(self, block: Expr) -> Expr:
        """int8 weights of the block, ``[KW * KH, WIDTH]``."""
        taps, bits = len(self.form.taps), self.plan.workload.w_bits
        size = -(-taps * bits // 8)
        return unpack_weights(self.weight, T.bind(block * (size * WIDTH)), size, bits, WIDTH)

    def _row(self, work: Expr, weights: Expr, block: Expr, row: Expr, out: Expr) -> None:
        plan, w = self.plan, self.plan.workload
        _, _, columns, channels = w.out_shape
        with T.serial(i64(plan.tiles)) as tile:
            column = T.bind(T.min(tile * plan.sizes.columns, i64(columns - plan.sizes.columns)))
            line, across = row * w.strides[0], column * w.strides[1]
            at = T.bind((line * plan.read_columns + across) * WIDTH)
            target = T.bind(out + (row * columns + column) * channels)

            def emit(colour: int) -> None:
                self._tile(work, weights, block, at, target, colour)

            if self.form.colours == 1:
                emit(0)
                return
            with T.If((line + across) % 2 == 0):
                with T.Then():
                    emit(0)
                with T.Else():
                    emit(1)

    def _tile(
        self, work: Expr, weights: Expr, block: Expr, at: Expr, out: Expr, colour: int
    ) -> None:
        w, lane = self.plan.workload, T.bind(block * WIDTH)
        pixels = range(self.plan.sizes.columns)
        colours = [(colour + pixel * w.strides[1]) % self.form.colours for pixel in pixels]
        bias = [lane + c * (self.plan.blocks * WIDTH) for c in range(self.form.colours)]
        sums = [[load(self.bias, bias[c] + 4 * quad, 4) for quad in range(4)] for c in colours]
        for chains in zip(*map(self.form.chains, range(self.form.colours))):
            factors = {tap: T.bind(self._weight(weights, tap)) for tap in chains[0].taps}
            for pixel in pixels:
                chain = chains[colours[pixel]]
                values = [
                    T.bind(load(work, at + self._offset(tap, pixel), WIDTH)) for tap in chain.taps
                ]
                chosen = [factors[tap] for tap in chain.taps]
                sums[pixel] = _add(chain, sums[pixel], values, chosen)
        for pixel in pixels:
            self.epilogue.emit(sums[pixel], lane, out + pixel * w.out_shape[3], WIDTH)

    def _weight(self, weights: Expr, tap: tuple[int, int]) -> Expr:
        index = tap[1] * self.plan.workload.w_shape[1] + tap[0]
        return load(weights, i64(index * WIDTH), WIDTH)

    def _offset(self, tap: tuple[int, int], pixel: int) -> int:
        """Offset of an activation in the workspace from the first one of the tile."""
        w = self.plan.workload
        column = pixel * w.strides[1] + tap[1] * w.dilation[1]
        return (tap[0] * w.dilation[0] * self.plan.read_columns + column) * WIDTH


def _add(chain: Chain, sums: list[Expr], values: list[Expr], factors: list[Expr]) -> list[Expr]:
    """Sums of 16 channels, four int32x4, plus those of a chain."""
    found = []
    for half in (0, 8):
        total = splat("int16", chain.start, 8) if chain.start else None
        for value, factor, sign in zip(values, factors, chain.signs):
            product = neon("int16", 8, "smull.v8i16", part(value, half, 8), part(factor, half, 8))
            if total is None:
                total = product
            else:
                total = wrapping("add" if sign > 0 else "sub", 16, 8, total, product)
        total = T.bind(total)
        for quad in (0, 4):
            more = cast("int32", 4, part(total, quad, 4))
            acc = sums[(half + quad) // 4]
            op = "add" if chain.sign > 0 else "sub"
            found.append(T.bind(wrapping(op, 32, 4, acc, more)))
    return found
