"""All decisions about one direct kernel, in one value, and its constants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvmquant.reference import wrap_int32
from tvmquant.schedules.neon.bits import Count
from tvmquant.schedules.neon.lookup import Lookup
from tvmquant.schedules.neon.packing import packed_size
from tvmquant.schedules.neon.source import Source
from tvmquant.schedules.neon.steps import Step
from tvmquant.schedules.neon.tiling import Tiling
from tvmquant.schedules.workload import Workload


@dataclass(frozen=True)
class Plan:
    """Everything that decides the code of one kernel."""

    workload: Workload
    step: Step
    source: Source
    tiling: Tiling

    @property
    def pieces(self) -> int:
        """Pieces of a run."""
        return -(-self.source.run // self.step.depth)

    @property
    def run_count(self) -> int:
        """Runs of a pixel."""
        return self.source.runs[0][0] * self.source.runs[1][0]

    @property
    def group_lanes(self) -> int:
        """Output channels of a group, padding included."""
        return sum(self.tiling.blocks) * self.step.lanes

    @property
    def padded_outputs(self) -> int:
        """Output channels, padding included."""
        return self.source.geometry.groups * self.group_lanes

    @property
    def channel_weights(self) -> int:
        """Weights of one output channel, padding included."""
        return self.run_count * self.pieces * self.step.depth

    @property
    def counts(self) -> bool:
        """Whether bits are counted instead of multiplied."""
        return isinstance(self.step, Count)

    @property
    def expands(self) -> bool:
        """Whether weights are unpacked or widened at load time."""
        return (self.workload.w_bits < 8 or self.step.w_dtype == "int16") and not self.counts

    @property
    def looks_up(self) -> bool:
        """Whether weights are indices of tables."""
        return isinstance(self.step, Lookup)

    @property
    def weight_count(self) -> int:
        """Elements of the array of weights; those that are unpacked fill whole vectors."""
        count = self.padded_outputs * self.channel_weights
        if not self.expands:
            return count
        return packed_size(count, self.stored_bits) * (8 // self.stored_bits)

    @property
    def stored_bits(self) -> int:
        """Bits of a weight in the file: among ±1 there is no zero to fill a last piece up with."""
        w_bits = self.workload.w_bits
        if self.looks_up:
            return 4  # an index, of four weights
        return 2 if w_bits == 1 and self.source.run % self.step.depth else w_bits

    def order(self, weight: np.ndarray) -> np.ndarray:
        """int8 weights as the kernel reads them: ``[group, block][run, piece, channel, depth]``."""
        step, runs = self.step, self.source.weights(weight)
        spare_outputs = self.group_lanes - runs.shape[1]
        spare_depth = self.pieces * step.depth - runs.shape[3]
        runs = np.pad(runs, ((0, 0), (0, spare_outputs), (0, 0), (0, spare_depth)))
        runs = runs.reshape(*runs.shape[:3], self.pieces, step.depth)
        found = []
        for group in runs:
            start = 0
            for vectors in self.tiling.blocks:
                lanes = vectors * step.lanes
                found.append(group[start : start + lanes].transpose(1, 2, 0, 3).reshape(-1))
                start += lanes
        return np.concatenate(found).view(self.step.w_dtype if self.counts else np.int8)

    def outputs(self, values: np.ndarray) -> np.ndarray:
        """``[O]`` or ``[1]`` → flat, zeros behind each group's outputs."""
        g = self.source.geometry
        rows = np.broadcast_to(values.reshape(-1), (g.out_channels,)).reshape(g.groups, -1)
        return np.pad(rows, ((0, 0), (0, self.group_lanes - rows.shape[1]))).reshape(-1)

    def bias(self, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """int32 bias with what the form of the activations takes away, modulo 2**32."""
        total = bias.astype(np.int64) + self.source.constant(weight)
        return self.outputs(wrap_int32(total))
