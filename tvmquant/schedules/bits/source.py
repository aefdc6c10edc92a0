"""The input of the kernels below 8 bits: always a workspace that holds packed activations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.geometry import Geometry, InputPlan
from tvmquant.schedules.linear.tir import Expr, i64
from tvmquant.schedules.workload import Workload

_MAX_PIECES = 32


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
    g = plan.geometry
    rows, columns = plan.size
    top, left = g.pad
    width, height = g.width, g.height
    pitch = plan.pitch
    if not g.padded and g.height == 1:  # one long row: cut it, so that threads can share it
        rows = height = max(d for d in range(1, _MAX_PIECES + 1) if columns % d == 0)
        columns = width = columns // rows
        pitch = columns * plan.skip[1]
    left = min(left, columns)
    inside = max(0, min(columns - left, width))

    def fill_pixels(start: Expr, count: int) -> None:
        if count:
            with T.serial(i64(count)) as i:
                fill(T.bind(start + i))

    def copy_row(row: Expr) -> None:
        start = T.bind(row * columns)
        fill_pixels(start, left)
        source = T.bind(x_base + (row - top) * (plan.skip[0] * pitch * channels))
        if inside:
            with T.serial(i64(inside)) as i:
                copy(T.bind(start + left + i), T.bind(source + i * (plan.skip[1] * channels)))
        fill_pixels(start + (left + inside), columns - left - inside)

    loop = T.parallel if parallel and rows > 1 else T.serial
    with loop(i64(rows)) as row:
        if top == 0 and rows <= height:
            copy_row(row)
            return
        with T.If(tirx.all(row >= top, row < top + height)):
            with T.Then():
                copy_row(row)
            with T.Else():
                fill_pixels(T.bind(row * columns), columns)
