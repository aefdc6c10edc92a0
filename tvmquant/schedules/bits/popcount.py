"""Products of single bits, counted: ``vpandd``, ``vpopcntd`` and ``vpaddd`` are 512 of them.

Activations become bits, eight channels a byte, when the kernel starts; a filter row is a run of
bytes, read in steps of 32 bits. Two-bit values are two planes of bits: with the codes u = w + 2
(or u = (w + 1) / 2 for ±1), ``sum(x * u)`` is the sum of ``2**(i + j) * count(x_i & u_j)`` over
the planes, summed from the highest power down with a doubling in between. ``sum(x)`` over the
window of an output pixel, which leads from u back to w, does not depend on the output channel:
it is computed once, per pixel of the workspace.
"""

from __future__ import annotations

from collections.abc import Callable
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
from tvmquant.schedules.linear.strips import Patch
from tvmquant.schedules.linear.tiling import choose
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


_INSTRUCTIONS = Popcount()


@dataclass(frozen=True)
class PopcountPlan(Plan):
    """Everything that decides the code of a kernel that counts bits."""

    input: PackedInput

    @property
    def weight_plane(self) -> int:
        """Bytes of one plane of the packed weights."""
        return self.tiling.group_lanes * self.input.steps * self.input.step

    @property
    def weight_count(self) -> int:
        """Bytes of the packed weights."""
        return self.workload.w_bits * self.weight_plane

    @property
    def offsets(self) -> np.ndarray:
        """int32: offset of every step."""
        return self.input.offsets

    @property
    def cost(self) -> float:
        """Estimated cycles of one thread."""
        tiling, source = self.tiling, self.input
        pixels, passes = tiling.rows * tiling.columns, self.workload.x_bits * self.workload.w_bits
        cost = 0.0
        for vectors in [tiling.vectors] * tiling.full_blocks + [tiling.tail] * bool(tiling.tail):
            step = max(0.75 * pixels * len(vectors), 0.5 * (pixels + len(vectors)))
            cost += passes * source.steps * (step + 0.2) + 3 * pixels * len(vectors) + 10
        words = -(-source.channels // 4) * source.planes
        packing = source.pixels * (2 + 2 * words)
        return source.geometry.images * (cost * tiling.tiles(source.geometry) + packing)

    def correct(self, bias: np.ndarray) -> np.ndarray:
        """The bias as it is."""
        return bias

    def pack(self, weight: np.ndarray) -> np.ndarray:
        """int8 ``[O, ..., C]`` → uint8, 8 channels a byte, in the order of the kernel."""
        bits = self.workload.w_bits
        codes = weight > 0 if bits == 1 else weight + 2
        planes = []
        for j in range(bits):
            plane = np.packbits(codes >> j & 1, axis=-1, bitorder="little").view(np.int8)
            planes.append(pack_weights(plane, 8, self.input, self.tiling.blocks))
        return np.concatenate(planes).view(np.uint8)


def make_plan(workload: Workload) -> PopcountPlan:
    """Plan of a workload with 1- or 2-bit values and at least 32 channels."""
    isa, units = _INSTRUCTIONS, -(-workload.x_shape[-1] // 8)
    source = PackedInput.of(workload, units, isa.step, "uint8", workload.x_bits)
    return PopcountPlan(workload, isa, source, choose(source, isa, 8))


class PopcountNest(Nest):
    """Loops of a kernel that counts bits."""

    plan: PopcountPlan

    def fill(self, work: Expr, x_base: Expr, x_zero_point: Expr) -> None:
        """Pack the bits of an image, and count those of every window."""
        source, parallel = self.plan.input, self.plan.tiling.parallel
        counts = T.alloc_buffer((i64(source.pixels),), "int32")
        channels = self.plan.workload.x_shape[-1]
        # LLVM 22 mixes up its mask registers where a mask is broadcast without having been in
        # another register first: an operation that it cannot see to do nothing keeps them apart.
        nothing = T.bind(x_zero_point >> _int32(31))

        def write(pixel: Expr, word: Callable[[Expr, int, int], Expr]) -> None:
            """Write ``word(first channel, bits to drop, plane)`` for 32 channels at a time."""
            total = Register("int32", 1)
            total.set(_int32(0))

            def piece(index: Expr, first: Expr, skip: int, size: int) -> None:
                at = T.bind(pixel * source.channels + index * 4)
                for plane in range(source.planes):
                    bits = T.bind(word(first, skip, plane))
                    _store_word(work, bits, at + plane * source.plane, size)
                    total.set(total.get() + (tirx.popcount(bits) << _int32(plane)))

            whole, rest = divmod(channels, 32)
            with T.serial(i64(whole)) as index:
                piece(index, T.bind(index * 32), 0, 4)
            if rest:  # the last piece moves back inside
                piece(i64(whole), i64(channels - 32), 32 - rest, -(-rest // 8))
            T.buffer_store(counts, total.get(), [pixel])

        def padding(_: Expr, skip: int, plane: int) -> Expr:
            bit = (x_zero_point >> _int32(plane)) & _int32(1)
            return (_int32(0) - bit) & _int32((1 << (32 - skip)) - 1)

        def copy(pixel: Expr, at: Expr) -> None:
            def word(first: Expr, skip: int, plane: int) -> Expr:
                return _bits(self.x, at + first, skip, plane) ^ nothing

            write(pixel, word)

        emit_pixels(source, channels, x_base, parallel, copy, lambda pixel: write(pixel, padding))
        self.sums = _window_sums(source, counts)

    def tile(self, reads: Expr, vectors: tuple[int, ...], valid: int, patch: Patch) -> PopcountTile:
        """Register tile of ``valid`` channels."""
        tile = PopcountTile(
            self.plan, reads, self.w, self.bias, self.table, self.epilogue, vectors, valid, patch
        )
        tile.sums = self.sums
        return tile


class PopcountTile(Microkernel):
    """Register tile of a kernel that counts bits."""

    plan: PopcountPlan
    sums: Expr

    def emit(self, x_at: Expr, out_at: Expr, lane: Expr) -> None:
        """Emit the tile, see :class:`Microkernel`."""
        source = self.plan.input
        g = source.geometry
        acc = [[Register("int32", width) for width in self.vectors] for _ in self._pixels]
        for register in (register for row in acc for register in row):
            register.set(splat("int32", 0, register.lanes))
        w_bits = self.plan.workload.w_bits
        base = T.bind(lane * (source.steps * source.step))
        passes = source.planes * w_bits
        with T.serial(i64(passes)) as turn:
            # Highest planes first; of four passes, the two in the middle weigh the same.
            i = source.planes - 1 - turn // w_bits
            j = w_bits - 1 - turn % w_bits
            if passes > 1:
                _double(acc, tirx.Cast("int32", turn & 1) if passes == 4 else _int32(1))
            at = T.bind(x_at + i * source.plane)
            first = T.bind(base + j * self.plan.weight_plane)
            self._loop(None, i64(0), lambda index: self._whole_step(first, index, at, acc))
        if w_bits == 1:
            _double(acc, _int32(1))
        first = T.bind(tirx.truncdiv(x_at, i64(source.channels)))
        for (i, j), row in zip(self._pixels, acc):
            count = self.sums[first + source.pixel(i, j) // source.channels]
            count = T.bind(count << tirx.IntImm("int32", w_bits - 1))
            values = [
                register.get() + (load(self.bias, lane + start, width) - broadcast(count, width))
                for register, start, width in zip(row, self._starts, self.vectors)
            ]
            at = out_at + (i * g.out[1] + j) * g.out_channels
            self.epilogue.emit(values, list(self.vectors), lane, at, self.valid)


def _bits(x: Expr, at: Expr, skip: int, plane: int) -> Expr:
    """One bit of each of 32 bytes as one int32, less the first ``skip`` of them."""
    shifted = bits_as("int16", 16, load(x, at, 32)) << splat("int16", 7 - plane, 16)
    word = intrinsic("int32", 1, "llvm.x86.avx2.pmovmskb", bits_as("int8", 32, shifted))
    if not skip:
        return word
    return tirx.Cast("int32", tirx.Cast("uint32", word) >> tirx.IntImm("uint32", skip))


def _store_word(work: Expr, word: Expr, at: Expr, count: int) -> None:
    """Store the lowest ``count`` bytes: the next ones may be another thread's pixel."""
    done = 0
    for size in (4, 2, 1):
        if count - done >= size:
            part = T.bind(tirx.Cast(f"int{8 * size}", word >> _int32(8 * done)))
            store(work, bits_as("uint8", size, part), at + done, size)
            done += size


def _double(acc: list[list[Register]], times: Expr) -> None:
    for register in (register for row in acc for register in row):
        register.set(register.get() << broadcast(times, register.lanes))


def _int32(value: int) -> Expr:
    return tirx.IntImm("int32", value - (1 << 32) if value >> 31 else value)


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
