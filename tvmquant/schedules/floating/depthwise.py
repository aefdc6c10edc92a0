"""Float depthwise convolution: vectors of channels, a row of output pixels at a time."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvmquant.precision import HALF_BITS
from tvmquant.schedules.floating.frame import (
    Geometry,
    Variable,
    argument,
    begin,
    flat,
    start_of,
    store_channels,
)
from tvmquant.schedules.floating.half import converts_half, half_bits, widen
from tvmquant.schedules.floating.tiling import (
    Machine,
    Sizes,
    block_count,
    block_lanes,
    choose_depthwise_tile,
    most_vectors,
    worth_threads,
)
from tvmquant.schedules.linear.tir import Expr, i64, load, ramp, splat, store
from tvmquant.schedules.space import Config, integers
from tvmquant.schedules.workload import Workload
from tvmquant.targets.device import Device

# More multiply-adds than this in a tile: loop over the kernel's taps.
_UNROLL = 256
_BAND_BYTES = 64 << 10
_MIN_BAND = 4
# What the tuner tries.
_TUNED_VECTORS = 4
_TUNED_SUMS = 12


@dataclass(frozen=True)
class _Source:
    """Input of a task: ``base + (line * columns + column) * channels + lane``."""

    buffer: Any
    base: Expr
    columns: int
    channels: int


class DepthwiseFloatKernel:
    """``depthwise_conv2d_float`` with one output channel for each input channel.

    Parameters
    ----------
    workload : Workload
    device : Device
    sizes : Sizes, optional
        Rows of a band, columns and vectors of a tile that the tuner found.
    """

    def __init__(self, workload: Workload, device: Device, sizes: Sizes | None = None) -> None:
        self.workload, self.device = workload, device
        self.machine = Machine.of(device)
        self.geometry = g = Geometry.of(workload)
        self.channels, self.kh, self.kw, _ = g.w_shape
        self.tile = choose_depthwise_tile(g.out_shape[2], self.channels, self.machine, sizes)
        self.blocks = block_count(self.channels, self.tile.width)
        rows, stride = g.out_shape[1], g.strides[0]
        span = (self.kh - 1) * g.dilation[0] + 1
        fitting = _BAND_BYTES // (4 * self.tile.width * g.read_size[1])
        self.band = min(rows, max(_MIN_BAND, (fitting - span) // stride + 1))
        if sizes is not None:
            self.band = min(rows, sizes.rows)
        self.bands = block_count(rows, self.band)
        self.parallel = worth_threads(workload.macs, device)
        self.lines = (self.band - 1) * stride + span
        self.half = workload.w_bits == HALF_BITS
        suffix = "_half" if self.half else ""
        self.name = f"{workload.op}_{self.kh}x{self.kw}_{device.isa}{suffix}"

    def configs(self) -> list[Config]:
        """Bands and tiles worth trying, the default first."""
        columns, tile = self.geometry.out_shape[2], self.tile
        first = Sizes(self.band, tile.columns, tile.vectors)
        bands = {max(1, self.band // 2), self.band, min(self.geometry.out_shape[1], 2 * self.band)}
        most = min(most_vectors(self.channels, tile.lanes), _TUNED_VECTORS)
        found = [
            Sizes(band, across, vectors)
            for band in sorted(bands)
            for across in range(1, min(columns, _TUNED_SUMS) + 1)
            for vectors in range(1, min(most, _TUNED_SUMS // across) + 1)
        ]
        return [asdict(sizes) for sizes in (first, *(s for s in found if s != first))]

    def with_config(self, config: Config) -> DepthwiseFloatKernel:
        """The same kernel at these sizes; ``ConfigError`` if they do not fit."""
        names = [field.name for field in fields(Sizes)]
        return DepthwiseFloatKernel(self.workload, self.device, Sizes(*integers(config, *names)))

    def pack(
        self, weight: np.ndarray, bias: np.ndarray, params: tuple[np.ndarray, ...]
    ) -> list[np.ndarray]:
        """``[weight, bias]``: ``[blocks, KH * KW, width]`` and ``[blocks, width]``."""
        lanes = block_lanes(self.channels, self.tile.width)
        w = weight.reshape(self.channels, -1)[lanes].transpose(0, 2, 1)
        w, b = (np.ascontiguousarray(a, np.float32) for a in (w, bias[lanes]))
        return [half_bits(w) if self.half else w, b]

    def prim_func(self) -> Any:
        """PrimFunc ``(x, weight, bias, out)``."""
        width = self.tile.width
        with IRBuilder() as builder:
            with T.prim_func(s_tir=True):
                begin(self.name)
                x = argument("x", self.workload.x_shape)
                self.weight = argument(
                    "weight",
                    (self.blocks, self.kh * self.kw, width),
                    "uint16" if self.half else "float32",
                )
                self.bias = argument("bias", (self.blocks, width))
                out = argument("out", self.workload.out_shape)
                self.out = flat(out, self.workload.out_shape)
                self.x = flat(x, self.workload.x_shape)
                tasks = self.geometry.x_shape[0] * self.bands * self.blocks
                with (T.parallel if self.parallel else T.serial)(i64(tasks)) as task:
                    self._task(task)
        return builder.get()

    def _task(self, task: Expr) -> None:
        """One channel block of one band of rows."""
        g, tile = self.geometry, self.tile
        _, rows, columns, channels = g.out_shape
        block = T.bind(tirx.floormod(task, i64(self.blocks)))
        rest = T.bind(tirx.floordiv(task, i64(self.blocks)))
        image = T.bind(tirx.floordiv(rest, i64(self.bands)))
        top = start_of(tirx.floormod(rest, i64(self.bands)), self.band, rows)
        channel = T.bind(tirx.min(block * tile.width, i64(max(channels - tile.width, 0))))
        source = self._source(image, top, channel)
        with T.serial(i64(self.band)) as row:
            with T.serial(i64(-(-columns // tile.columns))) as i:
                column = start_of(i, tile.columns, columns)
                pixel = row * g.strides[0] * source.columns + column * g.strides[1]
                base = T.bind(source.base + pixel * source.channels)
                for (c, v), total in self._sums(source, base, block).items():
                    at = ((image * rows + (top + row)) * columns + (column + c)) * channels
                    left = channels - v * tile.lanes
                    at, value = at + channel + v * tile.lanes, total.get()
                    store_channels(self.out, at, value, tile.lanes, left)

    def _source(self, image: Expr, top: Expr, channel: Expr) -> _Source:
        """The input of the task: in place, or a padded copy of the lines of the band."""
        g, width = self.geometry, self.tile.width
        _, height, columns, channels = g.x_shape
        line = T.bind(top * g.strides[0] - g.padding[0])
        if not any(g.padding) and channels >= width:
            base = T.bind((image * height + line) * (columns * channels) + channel)
            return _Source(self.x, base, columns, channels)
        needed, left = g.read_size[1], g.padding[1]
        work = T.alloc_buffer((i64(self.lines * needed * width),), "float32")
        zero = splat("float32", 0.0, width)
        first = min(left, needed)
        inside = max(min(needed - left, columns), 0)
        with T.serial(i64(self.lines)) as i:
            start = T.bind(i * (needed * width))
            row = T.bind(line + i)
            for begin_at, count in ((0, first), (first + inside, needed - first - inside)):
                if count:
                    with T.serial(i64(count)) as j:
                        store(work, zero, start + (begin_at + j) * width, width)
            if inside:
                with T.serial(i64(inside)) as j:
                    with T.If(tirx.all(row >= 0, row < height)):
                        with T.Then():
                            at = ((image * height + row) * columns + j) * channels + channel
                            self._copy(work, start + (first + j) * width, at)
                        with T.Else():
                            store(work, zero, start + (first + j) * width, width)
        return _Source(work, i64(0), needed, width)

    def _copy(self, work: Any, to: Expr, at: Expr) -> None:
        count = min(self.tile.width, self.channels)
        if count == self.tile.width:
            store(work, load(self.x, at, count), to, count)
            return
        for lane in range(self.tile.width):
            # Lanes without a channel only need to hold something.
            store(work, load(self.x, at + min(lane, count - 1), 1), to + lane, 1)

    def _sums(self, source: _Source, base: Expr, block: Expr) -> dict[tuple[int, int], Variable]:
        g, tile, channels = self.geometry, self.tile, source.channels
        sums = {
            (c, v): Variable(tile.lanes, self.bias[block, ramp(i64(v * tile.lanes), tile.lanes)])
            for c in range(tile.columns)
            for v in range(tile.vectors)
        }
        looped = self.kh * self.kw * len(sums) > _UNROLL
        for unrolled in range(1 if looped else self.kh * self.kw):
            with T.serial(i64(self.kh * self.kw)) if looped else nullcontext(unrolled) as tap:
                i, j = (
                    (tirx.floordiv(tap, i64(self.kw)), tirx.floormod(tap, i64(self.kw)))
                    if looped
                    else divmod(tap, self.kw)
                )
                pixel = i * (g.dilation[0] * source.columns) + j * g.dilation[1]
                for v in range(tile.vectors):
                    lane = v * tile.lanes
                    weight = T.bind(self.weight[block, tap, ramp(i64(lane), tile.lanes)])
                    if self.half:
                        native = converts_half(self.device)
                        weight = T.bind(widen(weight, tile.lanes, native))
                    for c in range(tile.columns):
                        offset = base + ((pixel + c * g.strides[1]) * channels + lane)
                        value = load(source.buffer, offset, tile.lanes)
                        sums[c, v].add_product(value, weight, self.machine.fma)
        return sums
