"""The same product by integer dot products, as exact as the float one.

The activations of every group are cut into three signed bytes (see :mod:`.digits`), whose products
with the weights are summed exactly by the byte dot product instructions; a group ends with one
conversion to float. Three of these instructions do the work of four to eight float ones, and the
weights need no conversion at all.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
from tvm.tirx.script import builder as T

from tvmquant.schedules.floating.frame import Variable, store_channels
from tvmquant.schedules.floating.tiling import Machine
from tvmquant.schedules.linear.tir import (
    Expr,
    Register,
    bits_as,
    broadcast,
    cast,
    i64,
    load,
    splat,
)
from tvmquant.schedules.weight_only.digits import emit_digits
from tvmquant.schedules.weight_only.dots import STEP, byte_dot
from tvmquant.schedules.weight_only.frame import PanelKernel
from tvmquant.schedules.weight_only.plan import Sizes, priced_integer_sizes, worth_trying
from tvmquant.schedules.workload import Workload
from tvmquant.targets.device import Device

DIGITS = 3
# Dot products that are written out one by one.
_UNROLL = 192
_INT32 = 1 << 31


class IntegerKernel(PanelKernel):
    """``matmul_weight_only`` with dot products of bytes.

    Parameters
    ----------
    workload : Workload
    device : Device
        One that :func:`.dots.byte_dot` knows for the weights' bits.
    sizes : Sizes, optional
        Tile that the tuner found.

    Raises
    ------
    ConfigError
        If ``sizes`` do not fit the layer.
    """

    def __init__(self, workload: Workload, device: Device, sizes: Sizes | None = None) -> None:
        rows, outputs = workload.x_shape[0], workload.w_shape[0]
        self.dot = dot = byte_dot(device, outputs, workload.w_bits)
        priced = priced_integer_sizes(rows, outputs, dot, DIGITS)
        super().__init__(workload, device, dot.lanes, worth_trying(priced), sizes)
        self.fma = Machine.of(device).fma
        self.bits = workload.w_bits
        self.pieces = 8 // self.bits
        self.dtype = "int32"
        self.words = -(-self.group // (STEP * self.pieces))
        self.padded = self.words * self.pieces * STEP
        self.name = f"{workload.op}_w{self.bits}_{device.isa}_digits"
        self.label = f"digits {device.isa} {self.sizes.rows}x{self.sizes.vectors}"

    def encode(self, groups: np.ndarray) -> np.ndarray:
        """Words of four bytes; a byte holds one weight of each of ``8 // bits`` steps."""
        pad = self.padded - groups.shape[-1]
        codes = np.pad(groups, [(0, 0)] * (groups.ndim - 1) + [(0, pad)]).astype(np.int64)
        codes = codes + self.dot.offset(self.bits)
        parts = codes.reshape(*codes.shape[:-1], self.words, self.pieces, STEP)
        shifts = np.arange(self.pieces)[:, None] * self.bits
        joined = (parts << shifts).sum(-2).astype(np.uint8)
        return np.ascontiguousarray(joined).view(np.int32)[..., 0]

    def prepare(self) -> None:
        """Cut the activations."""
        self.digits = emit_digits(
            self.x,
            self.rows,
            self.depth,
            self.group,
            padded=self.padded,
            count=DIGITS,
            offset=self.dot.offset(self.bits),
            sums=self.workload.zero_points,
            parallel=self.parallel,
        )

    def tile(self, panel: Expr, channel: Expr, row: Expr) -> None:
        """Emit one tile."""
        lanes = self.lanes
        keys = [(r, v) for r in range(self.sizes.rows) for v in range(self.sizes.vectors)]
        totals = {
            (r, v): Variable(lanes, load(self.bias, panel * self.width + v * lanes, lanes))
            for r, v in keys
        }
        with T.serial(i64(self.groups)) if self.groups > 1 else nullcontext(i64(0)) as group:
            self._group(T.bind(panel * self.groups + group), row, group, totals)
        for (r, v), total in totals.items():
            at = (row + r) * self.outputs + channel + v * lanes
            store_channels(self.out, at, total.get(), lanes, self.outputs - v * lanes)

    def _group(
        self, block: Expr, row: Expr, group: Expr, totals: dict[tuple[int, int], Variable]
    ) -> None:
        """Add the products of one group; ``block`` counts the groups of all panels."""
        lanes, digits = self.lanes, self.digits
        cells = [T.bind((row + r) * self.groups + group) for r in range(self.sizes.rows)]
        sums = {}
        for r, v in totals:
            for d in range(DIGITS):
                sums[r, v, d] = Register("int32", lanes)
                start = load(digits.starts, cells[r] * DIGITS + d, 1)
                sums[r, v, d].set(broadcast(start, lanes))
        bases = [T.bind(cell * (DIGITS * self.padded)) for cell in cells]
        words = T.bind(block * (self.words * self.width))
        self._words(words, bases, sums)
        at = T.bind(block * self.width)
        for v in range(self.sizes.vectors):
            scale = T.bind(load(self.scale, at + v * lanes, lanes))
            for r, cell in enumerate(cells):
                value = self._value([sums[r, v, d].get() for d in range(DIGITS)])
                step = T.bind(scale * broadcast(load(digits.steps, cell, 1), lanes))
                totals[r, v].add_product(value, step, self.fma)
                if self.shift is not None:
                    shift = load(self.shift, at + v * lanes, lanes)
                    total = broadcast(load(digits.sums, cell, 1), lanes)
                    totals[r, v].add_product(total, shift, self.fma)

    def _words(
        self, words: Expr, bases: list[Expr], sums: dict[tuple[int, int, int], Register]
    ) -> None:
        """Add all products of a group."""
        flush = self.dot.flush // self.pieces
        most = min(self.words, _UNROLL // (self.pieces * len(sums)), flush or self.words)
        unroll = next(n for n in range(max(1, most), 0, -1) if self.words % n == 0)
        rounds = self.words // unroll
        with T.serial(i64(rounds)) if rounds > 1 else nullcontext(i64(0)) as i:
            parts = sums
            if flush:
                parts = {key: Register("int16", 2 * self.lanes) for key in sums}
                for part in parts.values():
                    part.set(splat("int16", 0, 2 * self.lanes))
            for j in range(unroll):
                self._word(T.bind(i * unroll + j), words, bases, parts)
            if flush:
                for key, total in sums.items():
                    total.set(total.get() + self.dot.widen(parts[key].get()))

    def _word(
        self,
        word: Expr,
        words: Expr,
        bases: list[Expr],
        sums: dict[tuple[int, int, int], Register],
    ) -> None:
        lanes = self.lanes
        base = T.bind(words + word * self.width)
        loaded = [
            T.bind(load(self.weight, base + v * lanes, lanes)) for v in range(self.sizes.vectors)
        ]
        for piece in range(self.pieces):
            at = T.bind((word * self.pieces + piece) * STEP)
            weights = [T.bind(self._weights(w, piece)) for w in loaded]
            for r, start in enumerate(bases):
                for d in range(DIGITS):
                    four = load(self.digits.bytes, start + d * self.padded + at, STEP)
                    x = T.bind(broadcast(bits_as("int32", 1, four), lanes))
                    for v, weight in enumerate(weights):
                        total = sums[r, v, d]
                        total.set(self.dot.add(total.get(), weight, x))

    def _weights(self, word: Expr, piece: int) -> Expr:
        """One weight in every byte."""
        if self.bits == 8:
            return word
        shifted = word >> splat("int32", piece * self.bits, self.lanes) if piece else word
        return shifted & splat("int32", (2**self.bits - 1) * 0x01010101, self.lanes)

    def _value(self, parts: list[Any]) -> Expr:
        """``d0 + 256 * d1 + 65536 * d2`` as float32."""
        lanes = self.lanes
        value = parts[-1]
        # Sums of two digits fit into int32 unless a group is very long.
        most = 2 ** (self.bits - 1) * 128 * 257 * self.padded
        if len(parts) > 1 and most < _INT32:
            value = (value << splat("int32", 8, lanes)) + parts[-2]
            parts = parts[:-1]
        value = T.bind(cast("float32", lanes, value))
        for part in reversed(parts[:-1]):
            low = Variable(lanes, cast("float32", lanes, part))
            low.add_product(value, splat("float32", 256.0, lanes), self.fma)
            value = T.bind(low.get())
        return value
