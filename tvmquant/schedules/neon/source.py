"""What the direct kernels read: every image goes through a padded, widened workspace.

Channels-last, a filter row over ``KW`` neighbouring pixels is one contiguous run of ``KW * C``
values. The copy costs two instructions for 16 values; it saves the borders' special cases, and
brings the activations into the signed or wide form that the multiplications need.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.geometry import Geometry
from tvmquant.schedules.linear.rows import Rows
from tvmquant.schedules.linear.tir import Expr, broadcast, cast, i64, load, splat, store

_LANES = 16
_SLACK = 64  # elements: a load of a whole register at the last value stays inside


@dataclass(frozen=True)
class Source:
    """The workspace of one image, and where a pixel's runs lie in it.

    Attributes
    ----------
    geometry : Geometry
    dtype : str
        ``uint8``, ``int16`` (the stored values) or ``int8`` (the stored values less 128).
    """

    geometry: Geometry
    dtype: str

    @property
    def lanes(self) -> int:
        """Elements of the workspace that are written together."""
        return _LANES

    @cached_property
    def merged(self) -> bool:
        """Whether a run covers all columns of the filter."""
        return self.geometry.groups == 1 and self.geometry.dilation[1] == 1

    @cached_property
    def width(self) -> int:
        """Elements of the workspace in one run."""
        g = self.geometry
        return g.kernel[1] * g.channels if self.merged else g.group_channels

    @cached_property
    def run(self) -> int:
        """Weights of an output channel in one run."""
        return self.width

    @cached_property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the workspace."""
        g = self.geometry
        pairs = zip(g.out, g.strides, g.kernel, g.dilation)
        rows, columns = ((o - 1) * s + (k - 1) * d + 1 for o, s, k, d in pairs)
        return rows, columns

    @cached_property
    def elements(self) -> int:
        """Elements of the workspace."""
        return self.size[0] * self.size[1] * self.geometry.channels + _SLACK

    @property
    def making(self) -> float:
        """Instructions that the workspace's form takes, beyond those of a copy."""
        return 0.0

    @cached_property
    def runs(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """``(count, stride)`` of the filter's rows, and of the runs in each of them."""
        g = self.geometry
        row = (g.kernel[0], g.dilation[0] * self.size[1] * g.channels)
        return row, ((1, 0) if self.merged else (g.kernel[1], g.dilation[1] * g.channels))

    def pixel(self, row: Expr, column: Expr) -> Expr:
        """Offset of an output pixel's first value from that of output pixel ``(0, 0)``."""
        (sh, sw), g = self.geometry.strides, self.geometry
        return row * (sh * self.size[1] * g.channels) + column * (sw * g.channels)

    def offset(self, at: Expr) -> Expr:
        """Offset in the input of the workspace's element ``at``."""
        return at

    def fill(self, zero_point: Expr) -> Expr:
        """What :meth:`padding` needs to know, computed once."""
        return _convert(self.dtype, tirx.Cast("uint8", zero_point), 1)

    def padding(self, fill: Expr, lanes: int) -> Expr:
        """``lanes`` neighbouring values of padding."""
        return broadcast(fill, lanes)

    def read(self, x: Expr, at: Expr, lanes: int) -> Expr:
        """``lanes`` neighbouring values of the workspace, from the input at ``at``.

        A vector, or a list of such of 16 lanes.
        """
        return _convert(self.dtype, load(x, at, lanes), lanes)

    def constant(self, weight: np.ndarray) -> np.ndarray:
        """int64 ``[O]``: what the form of the activations takes away from every output."""
        sums = weight.astype(np.int64).reshape(len(weight), -1).sum(axis=1)
        return sums * (128 if self.dtype == "int8" else 0)

    def weights(self, weight: np.ndarray) -> np.ndarray:
        """int8 ``[groups, outputs, runs, run]`` of weights ``[O, KH, KW, C]`` or ``[O, K]``."""
        g = self.geometry
        count = self.runs[0][0] * self.runs[1][0]
        return weight.reshape(g.groups, g.group_outputs, count, self.run)


def emit_copy(
    source: Source, x: Expr, x_base: Expr, work: Expr, zero_point: Expr, parallel: bool
) -> None:
    """Fill the workspace of one image.

    Parameters
    ----------
    source : Source
    x, work : Buffer
        Flat views of the input and of the workspace.
    x_base : Expr
        Offset of the image in ``x``.
    zero_point : Expr
        int32 padding value.
    parallel : bool
        Share the rows out to the threads.
    """
    rows = Rows.of(source.geometry, source.size)
    left, inside = rows.left, rows.inside
    channels, most = source.geometry.channels, source.lanes
    row_size = rows.columns * channels
    fill = T.bind(source.fill(zero_point))

    def fill_pixels(start: Expr, count: int) -> None:
        def values(_: Expr, lanes: int) -> Expr:
            return source.padding(fill, lanes)

        _sweep(work, start, count * channels, values, most)

    def copy_row(row: Expr) -> None:
        start = T.bind(row * row_size)
        origin = T.bind(x_base + source.offset((row - rows.top) * (rows.width * channels)))
        fill_pixels(start, left)

        def values(at: Expr, lanes: int) -> Expr:
            return source.read(x, origin + source.offset(at), lanes)

        _sweep(work, start + left * channels, inside * channels, values, most)
        fill_pixels(start + (left + inside) * channels, rows.right)

    def fill_row(row: Expr) -> None:
        fill_pixels(T.bind(row * row_size), rows.columns)

    rows.emit(copy_row, fill_row, parallel)


def _convert(dtype: str, value: Expr, lanes: int) -> Expr:
    if dtype == "int8":
        value = value ^ splat("uint8", 128, lanes)
    return cast(dtype, lanes, value) if lanes > 1 else tirx.Cast(dtype, value)


def _sweep(out: Expr, start: Expr, count: int, values: object, most: int) -> None:
    """Store ``values(at, lanes)``, a vector or several, for ``at`` from 0 up to ``count``."""
    if count <= 0:
        return
    lanes = min(most, 1 << (count.bit_length() - 1))
    whole = count // lanes

    def put(at: Expr, target: Expr) -> None:
        found = values(at, lanes)
        for i, value in enumerate(found if isinstance(found, list) else [found]):
            store(out, value, target + i * _LANES, min(lanes, _LANES))

    with T.serial(i64(whole)) as i:
        at = T.bind(i * lanes)
        put(at, start + at)
    if count % lanes:  # the last vector moves back inside
        put(i64(count - lanes), start + (count - lanes))
