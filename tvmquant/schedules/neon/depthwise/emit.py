"""The PrimFunc of a NEON depthwise convolution.

A task takes a block of channels of a band of output rows. Lines of the input are copied into a
workspace, padded and in the form that the instructions want, and tiles computed from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvmquant.schedules.depthwise.unpack import unpack_weights
from tvmquant.schedules.functions import (
    argument,
    flat,
    last_arguments,
    loop,
    mark,
    requantize_arguments,
)
from tvmquant.schedules.linear.tir import Expr, i64, load
from tvmquant.schedules.neon.depthwise.chains import Form
from tvmquant.schedules.neon.depthwise.dots import Dots, DotTiles
from tvmquant.schedules.neon.depthwise.plan import WIDTH, Finish, Plan, Task
from tvmquant.schedules.neon.depthwise.tiles import ChainTiles
from tvmquant.schedules.neon.epilogue import Epilogue, make_epilogue


def emit_prim_func(plan: Plan, form: Form | Dots, name: str) -> tirx.PrimFunc:
    """Build ``(x, weight, bias, *params, qinfo, [other], out)``."""
    w = plan.workload
    taps = w.w_shape[1] * w.w_shape[2]
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            x = argument("x", w.x_shape, "uint8")
            shape = (plan.blocks, -(-taps * w.w_bits // 8), WIDTH)
            weight = argument("weight", shape, "uint8")
            bias = argument("bias", (form.colours, plan.blocks, WIDTH), "int32")
            params = requantize_arguments(w, (plan.blocks, WIDTH))
            qinfo, other, out = last_arguments(w)
            mark(name)
            zero_point = T.bind(tirx.Cast("uint8", qinfo[i64(0)]))
            epilogue = make_epilogue(w, out, [flat(param) for param in params], qinfo, other)
            make = ChainTiles if isinstance(form, Form) else DotTiles
            tiles = make(plan, form, flat(x), zero_point)
            _Nest(plan, tiles, flat(weight), flat(bias), epilogue).emit()
    return builder.get()


@dataclass
class _Nest:
    plan: Plan
    tiles: ChainTiles | DotTiles
    weight: Expr
    bias: Expr
    epilogue: Epilogue

    def emit(self) -> None:
        plan, w = self.plan, self.plan.workload
        images, out_rows, columns, channels = w.out_shape
        band = plan.sizes.band
        with loop(images * plan.bands * plan.blocks, plan.parallel) as index:
            # Neighbouring blocks of one band read the same cache lines.
            block, at = T.bind(index % plan.blocks), T.bind(index // plan.blocks)
            image, first = T.bind(at // plan.bands), T.bind(at % plan.bands * band)
            rows = i64(band)
            if out_rows % band:
                rows = T.bind(T.min(rows, i64(out_rows) - first))
            channel = T.bind(T.min(block * WIDTH, i64(channels - WIDTH)))
            self.lane = T.bind(block * WIDTH)
            self.tiles.begin(Task(image, first, rows, channel), self._weights(block))
            out = T.bind((image * out_rows + first) * (columns * channels) + channel)
            high = plan.rows
            with T.serial(T.bind((rows + (high - 1)) // high) if high > 1 else rows) as tile:
                # The last tiles move back inside, if need be into the band before.
                row = T.bind(T.min(tile * high, rows - high)) if high > 1 else tile
                self.tiles.row(row)
                with T.serial(i64(plan.tiles)) as tile:
                    last = i64(columns - plan.sizes.columns)
                    column = T.bind(T.min(tile * plan.sizes.columns, last))
                    target = T.bind(out + (row * columns + column) * channels)
                    self.tiles.tile(row, column, self._bias, self._finish(target))

    def _weights(self, block: Expr) -> Expr:
        """int8 weights of the block, ``[KW * KH, WIDTH]``."""
        w = self.plan.workload
        size = -(-w.w_shape[1] * w.w_shape[2] * w.w_bits // 8)
        return unpack_weights(self.weight, T.bind(block * (size * WIDTH)), size, w.w_bits, WIDTH)

    def _bias(self, colour: int) -> list[Expr]:
        at = self.lane + colour * (self.plan.blocks * WIDTH)
        return [load(self.bias, at + 4 * quad, 4) for quad in range(4)]

    def _finish(self, out: Expr) -> Finish:
        _, _, columns, channels = self.plan.workload.out_shape

        def finish(sums: dict[tuple[int, int], list[Expr]]) -> None:
            for (row, column), values in sums.items():
                at = out + (row * columns + column) * channels
                self.epilogue.emit(values, self.lane, at, WIDTH)

        return finish
