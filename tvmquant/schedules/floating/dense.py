"""Float convolution (any groups) and matrix product as a register-tiled outer product.

A tile is ``pixels × vectors`` sums. Every step loads ``vectors`` of packed weights, broadcasts
one activation of every pixel and adds the products. Steps walk along runs of contiguous
activations: a whole filter row where columns are neither dilated nor grouped.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, fields
from functools import cached_property
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvmquant.precision import HALF_BITS
from tvmquant.schedules.floating.frame import (
    Geometry,
    Source,
    Variable,
    argument,
    begin,
    flat,
    padded_source,
    start_of,
    store_channels,
)
from tvmquant.schedules.floating.half import converts_half, half_bits, widen
from tvmquant.schedules.floating.tiling import (
    Machine,
    Sizes,
    block_count,
    block_lanes,
    choose_tile,
    priced_tiles,
    worth_threads,
)
from tvmquant.schedules.linear.tir import Expr, broadcast, i64, load, ramp, splat
from tvmquant.schedules.space import Config, integers
from tvmquant.schedules.workload import Workload
from tvmquant.targets.device import Device

_TASKS_PER_CORE = 4
# The tuner tries what costs up to this many times the best by the model.
_WORTH = 2.0


class DenseKernel:
    """``conv2d_float`` (also grouped) and ``matmul_float``.

    Parameters
    ----------
    workload : Workload
    device : Device
    sizes : Sizes, optional
        Tile that the tuner found.
    """

    def __init__(self, workload: Workload, device: Device, sizes: Sizes | None = None) -> None:
        self.workload, self.device = workload, device
        self.machine = Machine.of(device)
        self.geometry = g = Geometry.of(workload)
        o, kh, kw, self.depth = g.w_shape
        self.group_outputs = o // g.groups
        self.tile = choose_tile(g.out_shape[1:3], self.group_outputs, self.machine, sizes)
        self.blocks = block_count(self.group_outputs, self.tile.width)
        merged = g.groups == 1 and g.dilation[1] == 1
        self.runs, self.run = (kh, kw * self.depth) if merged else (kh * kw, self.depth)
        self.runs_per_row = 1 if merged else kw
        tiles = -(-g.out_shape[1] // self.tile.rows) * -(-g.out_shape[2] // self.tile.columns)
        panels = self.blocks * g.groups
        self.parallel = worth_threads(workload.macs, device)
        tasks = _TASKS_PER_CORE * device.num_cores if self.parallel else 1
        self.chunks = min(tiles, -(-tasks // panels))
        self.half = workload.w_bits == HALF_BITS
        self.weight_dtype = "uint16" if self.half else "float32"
        suffix = "_half" if self.half else ""
        self.name = f"{workload.op}_{kh}x{kw}_{device.isa}{suffix}"

    @cached_property
    def _space(self) -> dict[Sizes, float]:
        priced = priced_tiles(self.geometry.out_shape[1:3], self.group_outputs, self.machine)
        return {sizes: cost for cost, sizes in priced if cost < _WORTH * priced[0][0]}

    def configs(self) -> list[Config]:
        """Tiles worth trying, the default first."""
        return [asdict(sizes) for sizes in self._space]

    def with_config(self, config: Config) -> DenseKernel:
        """The same kernel with this tile; ``ConfigError`` if it does not fit."""
        names = [field.name for field in fields(Sizes)]
        return DenseKernel(self.workload, self.device, Sizes(*integers(config, *names)))

    def estimate(self, config: Config) -> float:
        """Relative cost by loads and multiply-adds."""
        return self._space.get(Sizes(**config), float("inf"))

    def pack(
        self, weight: np.ndarray, bias: np.ndarray, params: tuple[np.ndarray, ...]
    ) -> list[np.ndarray]:
        """``[weight, bias]``, one panel ``[depth, width]`` for each block of output channels."""
        g = self.geometry
        lanes = block_lanes(self.group_outputs, self.tile.width)
        w = weight.reshape(g.groups, self.group_outputs, -1)[:, lanes].transpose(0, 1, 3, 2)
        b = bias.reshape(g.groups, self.group_outputs)[:, lanes]
        panels = g.groups * self.blocks
        w, b = (np.ascontiguousarray(a, np.float32).reshape(panels, -1) for a in (w, b))
        return [half_bits(w) if self.half else w, b]

    def prim_func(self) -> Any:
        """PrimFunc ``(x, weight, bias, out)``."""
        g, panels = self.geometry, self.geometry.groups * self.blocks
        size = self.runs * self.run * self.tile.width
        with IRBuilder() as builder:
            with T.prim_func(s_tir=True):
                begin(self.name)
                x = argument("x", self.workload.x_shape)
                self.weight = argument("weight", (panels, size), self.weight_dtype)
                self.bias = argument("bias", (panels, self.tile.width))
                out = argument("out", self.workload.out_shape)
                self.out = flat(out, self.workload.out_shape)
                x = flat(x, self.workload.x_shape)
                images, loop = g.x_shape[0], T.parallel if self.parallel else T.serial
                with T.serial(i64(images)) if images > 1 else nullcontext(i64(0)) as image:
                    source = padded_source(g, x, image, loop)
                    with loop(i64(panels * self.chunks)) as task:
                        self._task(source, image, task)
        return builder.get()

    def _task(self, source: Source, image: Expr, task: Expr) -> None:
        """Some tiles of one panel."""
        g, tile, chunks = self.geometry, self.tile, i64(self.chunks)
        _, rows, columns, outputs = g.out_shape
        panel = T.bind(tirx.floordiv(task, chunks))
        chunk = tirx.floormod(task, chunks)
        group = tirx.floordiv(panel, i64(self.blocks))
        block = tirx.floormod(panel, i64(self.blocks))
        last = i64(max(self.group_outputs - tile.width, 0))
        channel = T.bind(group * self.group_outputs + tirx.min(block * tile.width, last))
        first = T.bind(source.base + group * self.depth)
        across = -(-columns // tile.columns)
        total = -(-rows // tile.rows) * across
        count = -(-total // self.chunks)
        with T.serial(i64(count)) as i:
            # A short last chunk repeats its last tile.
            index = T.bind(tirx.min(chunk * count + i, i64(total - 1)))
            row = start_of(tirx.floordiv(index, i64(across)), tile.rows, rows)
            column = start_of(tirx.floormod(index, i64(across)), tile.columns, columns)
            pixel = (row * g.strides[0] * source.columns + column * g.strides[1]) * g.x_shape[3]
            sums = self._sums(source, T.bind(first + pixel), panel)
            for (r, c, v), value in sums.items():
                at = ((image * rows + (row + r)) * columns + (column + c)) * outputs + channel
                left = self.group_outputs - v * tile.lanes
                store_channels(self.out, at + v * tile.lanes, value, tile.lanes, left)

    def _sums(self, source: Source, start: Expr, panel: Expr) -> dict[tuple[int, ...], Expr]:
        """Emit the reduction of one tile; returns the value of every accumulator."""
        g, tile = self.geometry, self.tile
        keys = [
            (r, c, v)
            for r in range(tile.rows)
            for c in range(tile.columns)
            for v in range(tile.vectors)
        ]
        sums = {}
        for r, c, v in keys:
            bias = self.bias[panel, ramp(i64(v * tile.lanes), tile.lanes)]
            zero = splat("float32", 0.0, tile.lanes)
            sums[r, c, v] = [
                Variable(tile.lanes, zero if chain else bias) for chain in range(tile.chains)
            ]
        with T.serial(i64(self.runs)) if self.runs > 1 else nullcontext(i64(0)) as run:
            row = tirx.floordiv(run, i64(self.runs_per_row)) * g.dilation[0] * source.columns
            column = tirx.floormod(run, i64(self.runs_per_row)) * g.dilation[1]
            base = T.bind(start + (row + column) * g.x_shape[3])
            depth = T.bind(run * self.run)
            whole = self.run // tile.chains
            with T.serial(i64(whole)) as i:
                for chain in range(tile.chains):
                    self._step(source, sums, panel, base, depth, i * tile.chains + chain, chain)
            for i in range(whole * tile.chains, self.run):
                self._step(source, sums, panel, base, depth, i64(i), 0)
        totals = {}
        for key, chains in sums.items():
            total = chains[0].get()
            for chain in chains[1:]:
                total = total + chain.get()
            totals[key] = T.bind(total)
        return totals

    def _step(
        self,
        source: Source,
        sums: dict[tuple[int, ...], list[Variable]],
        panel: Expr,
        base: Expr,
        depth: Expr,
        i: Expr,
        chain: int,
    ) -> None:
        g, tile = self.geometry, self.tile
        offset = (depth + i) * tile.width
        weights = [
            self.weight[panel, ramp(offset + v * tile.lanes, tile.lanes)]
            for v in range(tile.vectors)
        ]
        if self.half:
            native = converts_half(self.device)
            weights = [widen(T.bind(w), tile.lanes, native) for w in weights]
        weights = [T.bind(w) for w in weights]
        for r in range(tile.rows):
            for c in range(tile.columns):
                pixel = (r * g.strides[0] * source.columns + c * g.strides[1]) * g.x_shape[3]
                scalar = load(source.buffer, base + pixel + i, 1)
                value = T.bind(broadcast(scalar, tile.lanes))
                for v, weight in enumerate(weights):
                    sums[r, c, v][chain].add_product(value, weight, self.machine.fma)
