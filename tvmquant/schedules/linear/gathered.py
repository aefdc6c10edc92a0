"""Rows of the filter whose last values share a step: for the three channels of an image.

A row of a 7×7 filter over three channels has 21 values, one more than five steps of four. The
values that are left over of four rows are gathered into one step: a second plane of the workspace
holds them, at the same strides as the pixels, so that the reduction reads them like any others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.geometry import InputPlan
from tvmquant.schedules.linear.strips import Part, Patch, Sweep
from tvmquant.schedules.linear.tir import Expr, bits_as, i64, store

# Half cycles to gather one value.
_GATHER = 2.0


@dataclass(frozen=True)
class GatheredInput(InputPlan):
    """Input whose left-over values are gathered."""

    copied: ClassVar[bool] = True  # type: ignore[misc]

    @classmethod
    def of(cls, plan: InputPlan) -> GatheredInput | None:
        """The same input with left-over values gathered, ``None`` where that saves nothing."""
        g = plan.geometry
        left = plan.run % plan.step
        if g.kernel[0] == 1 or not plan.merged or plan.pad_channels or plan.run < plan.step:
            return None
        if left == 0 or plan.step not in (2, 4) or plan.step % left:
            return None
        if g.strides[1] * g.channels < plan.step:
            return None
        made = cls(g, plan.step, plan.dtype)
        # The rows of the plane are those from which output rows read.
        return made if made.reach % g.strides[0] == 0 or made.words == 1 else None

    @property
    def left(self) -> int:
        """Values of a run that are left over."""
        return self.run % self.step

    @property
    def shared(self) -> int:
        """Rows of the filter that share a step."""
        return self.step // self.left

    @property
    def words(self) -> int:
        """Steps that are gathered."""
        return -(-self.geometry.kernel[0] // self.shared)

    @property
    def reach(self) -> int:
        """Rows of the input between two gathered steps."""
        return self.shared * self.geometry.dilation[0]

    @property
    def plane(self) -> int:
        """Where the plane of gathered values begins, which is also its size."""
        return self.size[0] * self.size[1] * self.channels

    @property
    def workspace(self) -> int:  # type: ignore[override]
        """Elements of the workspace of one image."""
        return 2 * self.plane + self.step

    @property
    def plane_rows(self) -> int:
        """Rows of the plane that are filled."""
        return self.geometry.out[0] + (self.words - 1) * self.reach // self.geometry.strides[0]

    @property
    def copy_cost(self) -> float:
        """Half cycles of the copy, roughly."""
        values = self.plane_rows * self.geometry.out[1] * self.step
        return super().copy_cost + _GATHER * values

    @cached_property
    def steps_per_run(self) -> int:
        """Steps of one run that are not gathered."""
        return self.run // self.step

    @cached_property
    def steps(self) -> int:
        """Steps of the whole reduction."""
        return len(self.run_starts) * self.steps_per_run + self.words

    @cached_property
    def offsets(self) -> np.ndarray:
        """int32 ``[steps]``: offset of every step from a pixel's first value."""
        within = np.arange(self.steps_per_run) * self.step
        whole = np.add.outer(self.run_starts, within).reshape(-1)
        pitch = self.reach * self.size[1] * self.channels
        gathered = self.plane + np.arange(self.words) * pitch
        return np.append(whole, gathered).astype(np.int32)

    @cached_property
    def weight_index(self) -> np.ndarray:
        """int64 ``[steps, step]``: which weight of the flattened runs meets each value, or -1."""
        runs = np.arange(len(self.run_starts)) * self.run
        whole = np.add.outer(runs, np.arange(self.run - self.left)).reshape(-1, self.step)
        rest = np.full(self.words * self.shared * self.left, -1)
        last = np.add.outer(runs, np.arange(self.run - self.left, self.run)).reshape(-1)
        rest[: len(last)] = last
        return np.append(whole, rest.reshape(-1, self.step), axis=0)

    def sweeps(self, patch: Patch) -> list[Sweep]:
        """The reduction of a tile."""
        return [Sweep(0, 1, (Part(0, self.steps, tuple(patch.pixels)),))]

    @property
    def sweep_steps(self) -> int:
        """Steps of what a sweep counts."""
        return self.steps


def emit_gather(plan: GatheredInput, work: Expr, parallel: bool) -> None:
    """Fill the plane of gathered values from the pixels in the workspace."""
    g, pitch = plan.geometry, plan.size[1] * plan.channels
    first = plan.run - plan.left
    loop = T.parallel if parallel else T.serial
    with loop(i64(plan.plane_rows)) as index:
        row = T.bind(index * g.strides[0])
        starts = [
            # Rows beyond the last one meet zero weights.
            T.bind(T.min(row + k * g.dilation[0], i64(plan.size[0] - 1)) * pitch + first)
            for k in range(plan.shared)
        ]
        out = T.bind(row * pitch + plan.plane)
        with T.serial(i64(g.out[1])) as column:
            at = T.bind(column * (g.strides[1] * plan.channels))
            # One store a step: it is read as a whole.
            bits = 32 // plan.step
            word = tirx.IntImm("uint32", 0)
            for k, start in enumerate(starts):
                for i in range(plan.left):
                    value = tirx.Cast(f"uint{bits}", work[start + at + i])
                    shift = tirx.IntImm("uint32", bits * (k * plan.left + i))
                    word = word | (tirx.Cast("uint32", value) << shift)
            store(work, bits_as(plan.dtype, plan.step, word), out + at, plan.step)
