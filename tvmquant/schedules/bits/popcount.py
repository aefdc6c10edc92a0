"""Products of single bits, counted: ``vpandd``, ``vpopcntd`` and ``vpaddd`` are 512 of them.

With x in {0, 1} and w = ±1, whose code b is 1 for +1, ``sum(x * w) = 2 * count(x & b) -
count(x)``. Activations become bits, eight channels a byte, when the kernel starts; a filter row
is a run of bytes, read in steps of 32 bits. ``count(x)`` over the window of an output pixel does
not depend on the output channel: it is computed once, per pixel of the workspace.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.bits.source import PackedInput, emit_pixels
from tvmquant.schedules.linear.emit import Nest
from tvmquant.schedules.linear.isa import InstructionSet
from tvmquant.schedules.linear.microkernel import Microkernel
from tvmquant.schedules.linear.packing import pack_weights
from tvmquant.schedules.linear.plan import Plan
from tvmquant.schedules.linear.tir import (
    Expr,
    Register,
    bits_as,
    broadcast,
    i64,
    intrinsic,
    load,
    splat,
    store,
)
from tvmquant.schedules.linear.tiling import choose
from tvmquant.schedules.workload import Workload

FEATURES = frozenset({"avx2", "avx512f", "avx512bw", "avx512vl", "avx512vpopcntdq"})
_SUM_LANES = 16


class Popcount(InstructionSet):
    """32 products a lane and step; ``InputPlan`` counts them as 4 bytes."""

    name = "avx512_popcnt"
    lanes = (16, 8, 4)
    step = 4
    registers = 32
    scratch = 2
    weight_cost = 1
    rolled = False
    x86 = True

    def load_x(self, x: Expr, offset: Expr) -> Expr:
        """32 activations as one int32."""
        return bits_as("int32", 1, load(x, offset, 4))

    def load_weight(self, w: Expr, offset: Expr, lanes: int) -> Expr:
        """32 weights of every output channel."""
        return bits_as("int32", lanes, load(w, offset, 4 * lanes))

    def dot(self, acc: Expr, x: Expr, w: Expr, lanes: int) -> Expr:
        """Accumulator after one step."""
        return acc + tirx.popcount(broadcast(x, lanes) & w)


@dataclass(frozen=True)
class PopcountPlan(Plan):
    """Everything that decides the code of a kernel that counts bits."""

    @property
    def weight_count(self) -> int:
        """Bytes of the packed weights."""
        return self.tiling.group_lanes * self.input.steps * self.input.step

    @property
    def offsets(self) -> np.ndarray:
        """int32: offset of every step."""
        return self.input.offsets

    def correct(self, bias: np.ndarray) -> np.ndarray:
        """The bias as it is."""
        return bias

    def pack(self, weight: np.ndarray) -> np.ndarray:
        """int8 ±1 ``[O, ..., C]`` → uint8, 8 channels a byte, in the order of the kernel."""
        codes = np.packbits(weight > 0, axis=-1, bitorder="little").view(np.int8)
        return pack_weights(codes, 8, self.input, self.tiling.blocks).view(np.uint8)


def make_plan(workload: Workload) -> PopcountPlan:
    """Plan of a workload with 1-bit weights and activations and at least 32 channels."""
    isa = Popcount()
    source = PackedInput.of(workload, -(-workload.x_shape[-1] // 8), isa.step, "uint8")
    return PopcountPlan(workload, isa, source, choose(source, isa, 8))


class PopcountNest(Nest):
    """Loops of a kernel that counts bits."""

    plan: PopcountPlan

    def fill(self, work: Expr, x_base: Expr, x_zero_point: Expr) -> None:
        """Pack the bits of an image, and count those of every window."""
        source, parallel = self.plan.input, self.plan.tiling.parallel
        counts = T.alloc_buffer((i64(source.pixels),), "int32")
        channels = self.plan.workload.x_shape[-1]
        units = source.channels
        padding = [T.bind(tirx.Cast("int32", -x_zero_point) & mask) for mask in _masks(channels)]

        def copy(pixel: Expr, at: Expr) -> None:
            words = [_bits(self.x, at + start, skip) for start, skip in _pieces(channels)]
            _store_words(work, counts, pixel, units, [T.bind(word) for word in words])

        emit_pixels(
            source,
            channels,
            x_base,
            parallel,
            copy,
            lambda pixel: _store_words(work, counts, pixel, units, padding),
        )
        self.sums = _window_sums(source, counts)

    def tile(self, reads: Expr, vectors: tuple[int, ...], valid: int) -> PopcountTile:
        """Register tile of ``valid`` channels."""
        tile = PopcountTile(
            self.plan, reads, self.w, self.bias, self.table, self.epilogue, vectors, valid
        )
        tile.sums = self.sums
        return tile


class PopcountTile(Microkernel):
    """Register tile of a kernel that counts bits."""

    sums: Expr

    def emit(self, x_at: Expr, out_at: Expr, lane: Expr) -> None:
        """Emit the tile, see :class:`Microkernel`."""
        source = self.plan.input
        g = source.geometry
        acc = [[Register("int32", width) for width in self.vectors] for _ in self._pixels]
        for register in (register for row in acc for register in row):
            register.set(splat("int32", 0, register.lanes))
        base = T.bind(lane * (source.steps * source.step))
        self._loop(None, i64(0), lambda index: self._whole_step(base, index, x_at, acc))
        first = T.bind(tirx.truncdiv(x_at, i64(source.channels)))
        for (i, j), row in zip(self._pixels, acc):
            count = T.bind(self.sums[first + source.pixel(i, j) // source.channels])
            values = [
                (register.get() << splat("int32", 1, width))
                + (load(self.bias, lane + start, width) - broadcast(count, width))
                for register, start, width in zip(row, self._starts, self.vectors)
            ]
            at = out_at + (i * g.out[1] + j) * g.out_channels
            self.epilogue.emit(values, list(self.vectors), lane, at, self.valid)


def _pieces(channels: int) -> list[tuple[int, int]]:
    """(first channel, bits to drop) of every 32 channels; the last piece moves back inside."""
    starts = range(0, channels, 32)
    return [(min(start, channels - 32), max(0, start - (channels - 32))) for start in starts]


def _masks(channels: int) -> list[Expr]:
    words = [(1 << (32 - skip)) - 1 for _, skip in _pieces(channels)]
    return [tirx.IntImm("int32", w - (1 << 32) if w >> 31 else w) for w in words]


def _bits(x: Expr, at: Expr, skip: int) -> Expr:
    """Lowest bits of 32 bytes as one int32, less the first ``skip`` of them."""
    shifted = bits_as("int16", 16, load(x, at, 32)) << splat("int16", 7, 16)
    word = intrinsic("int32", 1, "llvm.x86.avx2.pmovmskb", bits_as("int8", 32, shifted))
    if not skip:
        return word
    return tirx.Cast("int32", tirx.Cast("uint32", word) >> tirx.IntImm("uint32", skip))


def _store_words(work: Expr, counts: Expr, pixel: Expr, units: int, words: list[Expr]) -> None:
    at = T.bind(pixel * units)
    total = tirx.popcount(words[0])
    for index, word in enumerate(words):
        total = total if index == 0 else total + tirx.popcount(word)
        done = 0
        for size in (4, 2, 1):  # never a byte of the next pixel, which another thread may write
            if min(4, units - 4 * index) - done >= size:
                part = T.bind(tirx.Cast(f"int{8 * size}", word >> tirx.IntImm("int32", 8 * done)))
                store(work, bits_as("uint8", size, part), at + (4 * index + done), size)
                done += size
    T.buffer_store(counts, total, [pixel])


def _window_sums(source: PackedInput, counts: Expr) -> Expr:
    """For every pixel that begins a window: how many bits are set in the window."""
    g, width = source.geometry, source.size[1]
    (kh, kw), (dh, dw) = g.kernel, g.dilation
    if (kh, kw) == (1, 1):
        return counts
    reach = (kh - 1) * dh * width + (kw - 1) * dw
    sums = T.alloc_buffer((i64(source.pixels),), "int32")
    extent = source.pixels - reach
    lanes = min(_SUM_LANES, 1 << (extent.bit_length() - 1))
    with T.serial(i64(-(-extent // lanes))) as index:
        at = T.bind(T.min(index * lanes, i64(extent - lanes)))
        total = Register("int32", lanes)
        total.set(splat("int32", 0, lanes))
        with T.serial(i64(kh)) as i, T.serial(i64(kw)) as j:
            total.set(total.get() + load(counts, at + (i * (dh * width) + j * dw), lanes))
        store(sums, total.get(), at, lanes)
    return sums
