"""From a workload to the one shape that the generator knows: rows of pixels and runs of bytes.

Channels-last, a filter row over ``KW`` neighbouring pixels reads one contiguous run of
``KW * C`` values, so a convolution is a sum over ``KH`` runs (``KH * KW`` shorter ones when
columns are dilated or channels grouped). A run is read in steps of as many values as one
instruction multiplies; a last step that would reach beyond its run moves back inside and has
zero weights where it overlaps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tvmquant.schedules.linear.strips import Axis, Patch, Strip, Sweep, merged
from tvmquant.schedules.workload import Workload

# Bytes that are copied in half a cycle.
_COPIED = 8


@dataclass(frozen=True)
class Geometry:
    """A convolution after simplification.

    A matmul and an unpadded 1×1 convolution are one row of pixels; a convolution along a column
    of width 1 is turned into one along a row, which is the same memory.

    Attributes
    ----------
    images, height, width, channels : int
        ``[N, H, W, C]`` of the input.
    groups, kernel, strides, dilation : int and pairs
        As in the workload.
    pad : tuple of int
        Rows above, columns to the left (the rest follows from ``out``).
    padded : bool
        Whether any side is padded.
    out : tuple of int
        Output rows and columns.
    out_channels : int
        Of all groups.
    """

    images: int
    height: int
    width: int
    channels: int
    groups: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    pad: tuple[int, int]
    padded: bool
    out: tuple[int, int]
    out_channels: int

    @classmethod
    def of(cls, workload: Workload) -> Geometry:
        """Simplify a ``conv2d`` or ``matmul`` workload."""
        if workload.op == "matmul":
            m, k = workload.x_shape
            return cls._row(m, k, workload.w_shape[0])
        n, h, w, c = workload.x_shape
        o, kh, kw, _ = workload.w_shape
        strides, dilation, padding = workload.strides, workload.dilation, workload.padding
        _, oh, ow, _ = workload.out_shape
        pointwise = (kh, kw) == (1, 1) and tuple(strides) == (1, 1) and not any(padding)
        if pointwise and workload.groups == 1:
            return cls._row(n * h * w, c, o)
        kernel, pad, out = (kh, kw), (padding[0], padding[1]), (oh, ow)
        if w == kw == ow == 1 and not padding[1] and not padding[3]:
            h, w, kernel, pad, out = w, h, kernel[::-1], pad[::-1], out[::-1]
            strides, dilation = strides[::-1], dilation[::-1]
        return cls(
            n,
            h,
            w,
            c,
            workload.groups,
            kernel,
            tuple(strides),
            tuple(dilation),
            pad,
            any(padding),
            out,
            o,
        )

    @classmethod
    def _row(cls, pixels: int, channels: int, out_channels: int) -> Geometry:
        one, none, out = (1, 1), (0, 0), (1, pixels)
        return cls(1, 1, pixels, channels, 1, one, one, one, none, False, out, out_channels)

    @property
    def group_channels(self) -> int:
        """Input channels of one group."""
        return self.channels // self.groups

    @property
    def group_outputs(self) -> int:
        """Output channels of one group."""
        return self.out_channels // self.groups


@dataclass(frozen=True)
class InputPlan:
    """How the kernel reads the input: in place or from a workspace, and at which offsets.

    Attributes
    ----------
    geometry : Geometry
    step : int
        Values that one instruction multiplies and adds.
    dtype : str
        Element type of what is read, ``uint8`` or (always in the workspace) ``int16``.
    pad_channels : bool
        Pad the channels of the workspace with zeros to a multiple of ``step``: for ±1 weights,
        among which there is no zero to hide a value that does not belong to the run.
    trim : pair of bool
        Leave out the rows (columns) of the filter that fall outside the image.
    """

    geometry: Geometry
    step: int
    dtype: str = "uint8"
    pad_channels: bool = False
    trim: tuple[bool, bool] = field(default=(False, False), kw_only=True)

    @cached_property
    def merged(self) -> bool:
        """Whether a run covers all columns of the filter."""
        g = self.geometry
        return g.groups == 1 and g.dilation[1] == 1

    @cached_property
    def channels(self) -> int:
        """Values a pixel in what is read."""
        c = self.geometry.channels
        return -(-c // self.step) * self.step if self.pad_channels else c

    @cached_property
    def run(self) -> int:
        """Values in one run."""
        if self.merged:
            return self.geometry.kernel[1] * self.channels
        return self.channels if self.geometry.groups == 1 else self.geometry.group_channels

    @cached_property
    def copied(self) -> bool:
        """Whether the input goes through a workspace."""
        short = self.run < self.step
        padded = self.geometry.padded and not self.in_place
        return padded or self.pad_channels or short or self.dtype != "uint8"

    @cached_property
    def axes(self) -> tuple[Axis, Axis]:
        """Rows and columns of the output."""
        g = self.geometry
        sizes = zip(g.out, (g.height, g.width), g.kernel, g.strides, g.dilation, g.pad, self.trim)
        rows, columns = (Axis(*numbers) for numbers in sizes)
        return rows, columns

    @cached_property
    def in_place(self) -> bool:
        """Whether the padding is never read."""
        return all(axis.skip or not axis.outside for axis in self.axes)

    @cached_property
    def origin(self) -> int:
        """Offset of the image's first value from that of output pixel ``(0, 0)``."""
        if self.copied:
            return 0
        top, left = self.geometry.pad
        return (top * self.size[1] + left) * self.channels

    @property
    def borders(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Rows and columns of the filter that pixels leave out; the first border leaves none."""
        rows, columns = (axis.borders for axis in self.axes)
        return [(some, others) for some in rows for others in columns]

    def trims(self, per: int) -> list[tuple[bool, bool]]:
        """Values that ``trim`` may have when ``per`` steps share their bytes of weights."""
        rows, columns = (axis.outside for axis in self.axes)
        values = self.run // self.geometry.kernel[1] if self.merged else self.run
        # A step belongs to one row of the filter; to one column only if it ends with a pixel.
        apart = values % (self.step * per) == 0
        by_row = self.steps // self.geometry.kernel[0] % per == 0
        found = [(False, False)]
        if self.pad_channels:
            return found
        if rows and by_row:
            found.append((True, False))
        if columns and apart:
            found.append((rows, True))
        return found

    def patches(self, rows: int, columns: int) -> list[Patch]:
        """The kinds of tiles of ``rows × columns`` pixels."""
        strips = self.strips(rows, columns)
        return [Patch(some, others) for some in strips[0] for others in strips[1]]

    def strips(self, rows: int, columns: int) -> tuple[list[Strip], list[Strip]]:
        """Strips of rows and of columns."""
        return merged(self.axes[0], rows), self.axes[1].strips(columns)

    def sweeps(self, patch: Patch) -> list[Sweep]:
        """The reduction of a tile."""
        return patch.sweeps(self.sweep_steps, self.trim[1])

    @property
    def sweep_steps(self) -> int:
        """Steps of a row of the filter."""
        return self.steps // self.geometry.kernel[0]

    @property
    def copy_cost(self) -> float:
        """Half cycles of the copy into the workspace, roughly."""
        return self.size[0] * self.size[1] * self.channels / _COPIED if self.copied else 0

    @cached_property
    def size(self) -> tuple[int, int]:
        """Rows and columns of what is read."""
        g = self.geometry
        if not self.copied:
            return g.height, g.width
        pairs = zip(g.out, g.strides, g.kernel, g.dilation)
        rows, columns = ((o - 1) * s + (k - 1) * d + 1 for o, s, k, d in pairs)
        return rows, columns

    @cached_property
    def workspace(self) -> int:
        """Elements of the workspace of one image, slack for a short last run included."""
        return self.size[0] * self.size[1] * self.channels + self.step

    @cached_property
    def steps_per_run(self) -> int:
        """Steps that cover one run."""
        return -(-self.run // self.step)

    @cached_property
    def run_starts(self) -> list[int]:
        """Offset of every run from a pixel's first value."""
        (kh, kw), (dh, dw) = self.geometry.kernel, self.geometry.dilation
        row = self.size[1] * self.channels
        columns = [0] if self.merged else [j * dw * self.channels for j in range(kw)]
        return [i * dh * row + column for i in range(kh) for column in columns]

    @cached_property
    def steps(self) -> int:
        """Steps of the whole reduction."""
        return len(self.run_starts) * self.steps_per_run

    @cached_property
    def offsets(self) -> np.ndarray:
        """int32 ``[steps]``: offset of every step from a pixel's first value."""
        within = np.arange(self.steps_per_run) * self.step
        within = np.minimum(within, max(self.run - self.step, 0))
        return np.add.outer(self.run_starts, within).reshape(-1).astype(np.int32)

    @cached_property
    def weight_index(self) -> np.ndarray:
        """int64 ``[steps, step]``: which weight of the flattened runs meets each value, or -1."""
        starts = np.arange(self.steps_per_run)[:, None] * self.step
        local = np.minimum(starts, max(self.run - self.step, 0)) + np.arange(self.step)
        fresh = (local >= starts) & (local < self.run)
        runs = np.arange(len(self.run_starts))[:, None, None] * self.run
        return np.where(fresh, runs + local, -1).reshape(-1, self.step)

    def pixel(self, row: int, column: int) -> int:
        """Offset of an output pixel's first value from that of output pixel ``(0, 0)``."""
        (sh, sw), width = self.geometry.strides, self.size[1]
        return (row * sh * width + column * sw) * self.channels
