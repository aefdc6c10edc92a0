"""From a workload to the one shape that the generator knows: rows of pixels and runs of bytes.

Channels-last, a filter row over ``KW`` neighbouring pixels reads one contiguous run of
``KW * C`` values, so a convolution is a sum over ``KH`` runs (``KH * KW`` shorter ones when
columns are dilated or channels grouped). A run is read in steps of as many values as one
instruction multiplies; a last step that would reach beyond its run moves back inside and has
zero weights where it overlaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tvmquant.schedules.workload import Workload


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
    """

    geometry: Geometry
    step: int
    dtype: str = "uint8"
    pad_channels: bool = False

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
        return self.geometry.padded or self.pad_channels or short or self.dtype != "uint8"

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
