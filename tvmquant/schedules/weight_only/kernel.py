"""Matrix product of float activations and packed integer weights.

A tile is ``rows × vectors`` sums, one lane an output channel. Every step reads a vector of words,
each with several consecutive weights of one output channel, makes float vectors of them one after
the other in registers and adds their products with broadcast activations. For few rows the sums
of a group are scaled when it ends; for many, the weights are scaled before the products.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvmquant.schedules.floating.frame import (
    Variable,
    begin,
    start_of,
    store_channels,
)
from tvmquant.schedules.floating.tiling import Machine, block_count, block_lanes, worth_threads
from tvmquant.schedules.linear.tir import Expr, broadcast, i64, load, splat
from tvmquant.schedules.space import Config, ConfigError, integers
from tvmquant.schedules.weight_only.decode import Decoder
from tvmquant.schedules.weight_only.plan import Sizes, make_plan, priced_sizes
from tvmquant.schedules.workload import Workload
from tvmquant.targets.device import Device

# Instructions of a step that are written out one by one.
_UNROLL = 128
# The tuner tries what costs up to this many times the best by the model.
_WORTH = 1.5


@dataclass(frozen=True)
class _Group:
    """Where a group is: its number, its first activation, its first word, how many weights."""

    index: Expr
    first: Expr
    words: Expr
    size: int


class WeightOnlyKernel:
    """``matmul_weight_only`` on any processor.

    Parameters
    ----------
    workload : Workload
    device : Device
    sizes : Sizes, optional
        Tile that the tuner found.

    Raises
    ------
    ConfigError
        If ``sizes`` do not fit the layer.
    """

    def __init__(self, workload: Workload, device: Device, sizes: Sizes | None = None) -> None:
        self.workload, self.device = workload, device
        self.outputs, self.depth = workload.w_shape
        self.machine = Machine.of(device)
        lanes = self.machine.fit(self.outputs)
        self.decoder = Decoder.of(workload.w_bits, lanes, device)
        if sizes is not None and sizes not in self._space:
            raise ConfigError(f"{sizes} does not fit {workload.x_shape} x {workload.w_shape}")
        self.plan = make_plan(sizes or next(iter(self._space)), lanes)
        self.panels = block_count(self.outputs, self.plan.width)
        self.group = min(workload.group_size or self.depth, self.depth)
        self.groups = -(-self.depth // self.group)
        self.group_words = -(-self.group // self.decoder.per_word)
        self.parallel = worth_threads(workload.macs, device)
        self.name = f"{workload.op}_w{workload.w_bits}_{device.isa}"

    @cached_property
    def _space(self) -> dict[Sizes, float]:
        cost = 2 if self.decoder.table or self.decoder.bits == 8 else 3
        rows = self.workload.x_shape[0]
        priced = sorted(priced_sizes(rows, self.outputs, self.machine, cost))
        return {sizes: cost for cost, sizes in priced if cost < _WORTH * priced[0][0]}

    def configs(self) -> list[Config]:
        """Tiles worth trying, the default first."""
        return [asdict(sizes) for sizes in self._space]

    def with_config(self, config: Config) -> WeightOnlyKernel:
        """The same kernel with this tile; ``ConfigError`` if it does not fit."""
        names = [field.name for field in fields(Sizes)]
        return WeightOnlyKernel(self.workload, self.device, Sizes(*integers(config, *names)))

    def estimate(self, config: Config) -> float:
        """Relative cost by instructions."""
        return self._space.get(Sizes(**config), float("inf"))

    def pack(
        self, weight: np.ndarray, bias: np.ndarray, params: tuple[np.ndarray, ...]
    ) -> list[np.ndarray]:
        """``[weight, bias, scale]`` and, with zero points, ``-scale * zero_point``.

        ``params`` is ``(scale[, zero_point])``, each ``[N, groups]``. The packed weights are
        ``[panels, groups, words, width]``.
        """
        lanes = block_lanes(self.outputs, self.plan.width)
        pad = self.groups * self.group - self.depth
        padded = np.pad(weight, ((0, 0), (0, pad))).reshape(self.outputs, self.groups, self.group)
        words = self.decoder.encode(padded)[lanes].transpose(0, 2, 3, 1)
        scale, *zero_point = params
        arrays = [scale] + [-scale * zero.astype(np.float32) for zero in zero_point]
        panels = [a.astype(np.float32)[lanes].transpose(0, 2, 1) for a in arrays]
        packed = [words, bias.astype(np.float32)[lanes], *panels]
        return [np.ascontiguousarray(a).reshape(self.panels, -1) for a in packed]

    def prim_func(self) -> Any:
        """PrimFunc ``(x, weight, bias, scale[, shift], out)``."""
        rows, width = self.workload.x_shape[0], self.plan.width
        with IRBuilder() as builder:
            with T.prim_func(s_tir=True):
                begin(self.name)
                self._arguments()
                loop = T.parallel if self.parallel else T.serial
                self.sums = self._activation_sums(rows)
                with loop(i64(self.panels)) as panel:
                    self.table = self.decoder.values()
                    last = i64(max(self.outputs - width, 0))
                    channel = T.bind(tirx.min(panel * width, last))
                    tiles = -(-rows // self.plan.rows)
                    with T.serial(i64(tiles)) if tiles > 1 else nullcontext(i64(0)) as tile:
                        self._tile(panel, channel, start_of(tile, self.plan.rows, rows))
        return builder.get()

    def _arguments(self) -> None:
        """Declare the arguments and one-dimensional views of them."""
        w, width, panels = self.workload, self.plan.width, self.panels
        words, scales = self.groups * self.group_words * width, self.groups * width
        names = ("scale", "shift") if w.zero_points else ("scale",)
        shapes = {"x": w.x_shape, "weight": (panels, words), "bias": (panels, width)}
        shapes |= {**dict.fromkeys(names, (panels, scales)), "out": w.out_shape}
        views = {}
        for name, shape in shapes.items():
            dtype = self.decoder.dtype if name == "weight" else "float32"
            views[name] = T.arg(name, T.buffer(tuple(map(i64, shape)), dtype)), shape, dtype
        for name, (buffer, shape, dtype) in views.items():
            size = (i64(prod(shape)),)
            views[name] = T.decl_buffer(size, dtype, data=buffer.data)
        self.x, self.weight, self.bias, self.scale = (
            views[name] for name in ("x", "weight", "bias", "scale")
        )
        self.shift, self.out = views.get("shift"), views["out"]

    def _activation_sums(self, rows: int) -> Any:
        """Sum of the activations of every group, for the zero points: ``[rows, groups]``."""
        if self.shift is None or self.plan.scaled_weights:
            return None
        sums = T.alloc_buffer((i64(rows * self.groups),), "float32")
        with T.serial(i64(rows)) as row:
            with T.serial(i64(self.groups)) as group:
                start = T.bind(row * self.depth + group * self.group)
                total = Variable(1, splat("float32", 0.0, 1))
                with T.serial(tirx.min(i64(self.group), self.depth - group * self.group)) as i:
                    total.set(total.get() + load(self.x, start + i, 1))
                T.buffer_store(sums, total.get(), [row * self.groups + group])
        return sums

    def _keys(self) -> Iterable[tuple[int, int]]:
        return [(r, v) for r in range(self.plan.rows) for v in range(self.plan.vectors)]

    def _tile(self, panel: Expr, channel: Expr, row: Expr) -> None:
        plan = self.plan
        totals = {
            (r, v): Variable(
                plan.lanes, load(self.bias, panel * plan.width + v * plan.lanes, plan.lanes)
            )
            for r, v in self._keys()
        }
        whole, rest = divmod(self.depth, self.group)
        with T.serial(i64(whole)) if whole > 1 else nullcontext(i64(0)) as group:
            self._group(panel, row, group, self.group, totals)
        if rest:
            self._group(panel, row, i64(whole), rest, totals)
        for (r, v), total in totals.items():
            at = (row + r) * self.outputs + channel + v * plan.lanes
            store_channels(self.out, at, total.get(), plan.lanes, self.outputs - v * plan.lanes)

    def _group(
        self,
        panel: Expr,
        row: Expr,
        index: Expr,
        size: int,
        totals: dict[tuple[int, int], Variable],
    ) -> None:
        """Add the products of one group to the totals."""
        plan, lanes = self.plan, self.plan.lanes
        at = T.bind((panel * self.groups + index) * plan.width)
        scales = [T.bind(load(self.scale, at + v * lanes, lanes)) for v in range(plan.vectors)]
        shifts = []
        if self.shift is not None:
            shifts = [T.bind(load(self.shift, at + v * lanes, lanes)) for v in range(plan.vectors)]
        first = T.bind(row * self.depth + index * self.group)
        words = T.bind((panel * self.groups + index) * (self.group_words * plan.width))
        group = _Group(index, first, words, size)
        if plan.scaled_weights:
            self._steps(group, {key: [total] for key, total in totals.items()}, scales, shifts)
            return
        zero = splat("float32", 0.0, lanes)
        sums = {key: [Variable(lanes, zero) for _ in range(plan.chains)] for key in totals}
        self._steps(group, sums, [], [])
        for (r, v), chains in sums.items():
            value = chains[0].get()
            for chain in chains[1:]:
                value = value + chain.get()
            totals[r, v].add_product(T.bind(value), scales[v], self.machine.fma)
            if shifts:
                total = load(self.sums, (row + r) * self.groups + index, 1)
                totals[r, v].add_product(broadcast(total, lanes), shifts[v], self.machine.fma)

    def _steps(
        self,
        group: _Group,
        sums: dict[tuple[int, int], list[Variable]],
        scales: list[Expr],
        shifts: list[Expr],
    ) -> None:
        per_word = self.decoder.per_word
        whole, rest = divmod(group.size, per_word)
        unroll = max(1, _UNROLL // (per_word * self.plan.rows * self.plan.vectors))
        unroll = next(n for n in range(min(unroll, max(whole, 1)), 0, -1) if whole % n == 0)
        rounds = whole // unroll
        if rounds:
            with T.serial(i64(rounds)) if rounds > 1 else nullcontext(i64(0)) as i:
                for j in range(unroll):
                    self._word(group, T.bind(i * unroll + j), j, per_word, sums, scales, shifts)
        if rest:
            self._word(group, i64(whole), 0, rest, sums, scales, shifts)

    def _word(
        self,
        group: _Group,
        word: Expr,
        number: int,
        count: int,
        sums: dict[tuple[int, int], list[Variable]],
        scales: list[Expr],
        shifts: list[Expr],
    ) -> None:
        """The products of ``count`` inputs, which one vector of words holds."""
        plan, per_word, lanes = self.plan, self.decoder.per_word, self.plan.lanes
        base = T.bind(group.words + word * plan.width)
        words = [T.bind(load(self.weight, base + v * lanes, lanes)) for v in range(plan.vectors)]
        start = T.bind(group.first + word * per_word)
        for k in range(count):
            weights = []
            for v, packed in enumerate(words):
                weight = T.bind(self.decoder.decode(packed, k, self.table))
                if shifts:
                    fused = Variable(lanes, shifts[v])
                    fused.add_product(weight, scales[v], self.machine.fma)
                    weight = T.bind(fused.get())
                elif scales:
                    weight = T.bind(weight * scales[v])
                weights.append(weight)
            for r in range(plan.rows):
                value = T.bind(broadcast(load(self.x, start + r * self.depth + k, 1), lanes))
                for v, weight in enumerate(weights):
                    chain = (number * per_word + k) % len(sums[r, v])
                    sums[r, v][chain].add_product(value, weight, self.machine.fma)
