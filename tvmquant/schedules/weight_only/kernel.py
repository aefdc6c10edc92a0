"""Matrix product of float activations and packed integer weights in float32.

A tile is ``rows × vectors`` sums, one lane an output channel. Every step reads a vector of words,
each with several consecutive weights of one output channel, makes float vectors of them one after
the other in registers and adds their products with broadcast activations. For few rows the sums
of a group are scaled when it ends; for many, the weights are scaled before the products.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.floating.frame import Variable, store_channels
from tvmquant.schedules.floating.tiling import Machine
from tvmquant.schedules.linear.tir import Expr, broadcast, i64, load, splat
from tvmquant.schedules.weight_only.decode import Decoder
from tvmquant.schedules.weight_only.frame import PanelKernel
from tvmquant.schedules.weight_only.plan import Sizes, make_plan, priced_sizes, worth_trying
from tvmquant.schedules.workload import Workload
from tvmquant.targets.device import Device

# Instructions of a step that are written out one by one.
_UNROLL = 128


@dataclass(frozen=True)
class _Group:
    """Where a group is: its number, its first activation, its first word, how many weights."""

    index: Expr
    first: Expr
    words: Expr
    size: int


class WeightOnlyKernel(PanelKernel):
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
        self.machine = Machine.of(device)
        rows, outputs = workload.x_shape[0], workload.w_shape[0]
        lanes = self.machine.fit(outputs)
        self.decoder = Decoder.of(workload.w_bits, lanes, device)
        cost = 2 if self.decoder.table or workload.w_bits == 8 else 3
        space = worth_trying(priced_sizes(rows, outputs, self.machine, cost))
        super().__init__(workload, device, lanes, space, sizes)
        self.plan = make_plan(self.sizes, lanes)
        self.dtype = self.decoder.dtype
        self.words = -(-self.group // self.decoder.per_word)
        self.name = f"{workload.op}_w{workload.w_bits}_{device.isa}"
        self.label = f"float {device.isa} {self.sizes.rows}x{self.sizes.vectors}"

    def encode(self, groups: np.ndarray) -> np.ndarray:
        """Pack int8 weights ``[..., group]`` into ``[..., words]``."""
        return self.decoder.encode(groups)

    def prepare(self) -> None:
        """Sum the activations of every group if there are zero points."""
        self.sums = self._activation_sums(self.rows)

    def enter_panel(self) -> None:
        """The table of the weights' values."""
        self.table = self.decoder.values()

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

    def tile(self, panel: Expr, channel: Expr, row: Expr) -> None:
        """Emit one tile."""
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
        words = T.bind((panel * self.groups + index) * (self.words * plan.width))
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
