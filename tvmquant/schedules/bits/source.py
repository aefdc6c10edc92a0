"""The input of the kernels below 8 bits: always a workspace that holds packed activations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.geometry import Geometry, InputPlan
from tvmquant.schedules.linear.rows import Rows
from tvmquant.schedules.linear.tir import Expr, i64
from tvmquant.schedules.workload import Workload


@dataclass(frozen=True)
class PackedInput(InputPlan):
    """Input whose channels are units of several packed activations.

    ``geometry.channels`` counts the units of a pixel, everything else is as in the workload, but
    an unpadded 1×1 kernel with strides has none: the pixels that it skips are not packed.

    Attributes
    ----------
    planes : int
        Copies of the workspace, one behind the other: one for every bit of an activation.
    skip : tuple of int
        Strides in the input of the workspace's pixels.
    pitch : int
        Pixels of a row of the input.
    """

    planes: int = 1
    skip: tuple[int, int] = (1, 1)
    pitch: int = 0

    copied: ClassVar[bool] = True  # type: ignore[misc]

    @classmethod
    def of(
        cls, workload: Workload, units: int, step: int, dtype: str, planes: int = 1
    ) -> PackedInput:
        """Input of a dense workload with ``units`` values a pixel."""
        g = replace(Geometry.of(workload), channels=units)
        skip, pitch = (1, 1), g.width
        if g.kernel == (1, 1) and not g.padded:
            skip = g.strides
            g = replace(g, strides=(1, 1), height=g.out[0], width=g.out[1])
        return cls(g, step, dtype, False, planes, skip, pitch)

    @property
    def pixels(self) -> int:
        """Pixels of the workspace."""
        return self.size[0] * self.size[1]

    @property
    def plane(self) -> int:
        """Elements of one copy."""
        return self.pixels * self.channels

    @property
    def workspace(self) -> int:  # type: ignore[override]
        """Elements of the workspace of one image."""
        return self.planes * self.plane


def emit_pixels(
    plan: PackedInput,
    channels: int,
    x_base: Expr,
    parallel: bool,
    copy: Callable[[Expr, Expr], None],
    fill: Callable[[Expr], None],
) -> None:
    """Emit the loops over the pixels of the workspace.

    Parameters
    ----------
    plan : PackedInput
    channels : int
        Channels of a pixel of the input.
    x_base : Expr
        Offset of the image in the input.
    parallel : bool
        Share the rows out to the threads.
    copy : callable
        Emits the pixel of the given index from the given offset in the input.
    fill : callable
        Emits a pixel of padding.
    """
    rows = Rows.of(plan.geometry, plan.size)
    left, inside = rows.left, rows.inside
    pitch = rows.columns * plan.skip[1] if rows.is_cut else plan.pitch

    def fill_pixels(start: Expr, count: int) -> None:
        if count:
            with T.serial(i64(count)) as i:
                fill(T.bind(start + i))

    def copy_row(row: Expr) -> None:
        start = T.bind(row * rows.columns)
        fill_pixels(start, left)
        source = T.bind(x_base + (row - rows.top) * (plan.skip[0] * pitch * channels))
        if inside:
            with T.serial(i64(inside)) as i:
                copy(T.bind(start + left + i), T.bind(source + i * (plan.skip[1] * channels)))
        fill_pixels(start + (left + inside), rows.right)

    def fill_row(row: Expr) -> None:
        fill_pixels(T.bind(row * rows.columns), rows.columns)

    rows.emit(copy_row, fill_row, parallel)
