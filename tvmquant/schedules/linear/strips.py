"""Tiles along one axis of the output, and which taps of the filter fall outside the image there.

Where a tap is known to read nothing but padding, the kernel leaves it out: the padding holds the
zero point, so what such a tap adds is the zero point times the sum of its weights, which is added
to the bias instead (:func:`tvmquant.schedules.linear.packing.border_sums`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby


@dataclass(frozen=True)
class Range:
    """Pixels from ``first`` on that use the taps from ``start`` to ``end - 1``."""

    first: int
    border: int
    start: int
    end: int


@dataclass(frozen=True)
class Strip:
    """Consecutive tiles of one axis that share their code.

    Attributes
    ----------
    first, count : int
        Index of the first tile, number of tiles.
    size : int
        Pixels of a tile.
    borders : tuple of int
        For every pixel of a tile, which of :attr:`Axis.borders` it has.
    taps : tuple of tuple of int
        For every tap of the filter, the pixels of a tile that use it.
    ranges : tuple of Range
        Strips of one pixel a tile that were made one: their taps are known at run time.
    """

    first: int
    count: int
    size: int
    borders: tuple[int, ...]
    taps: tuple[tuple[int, ...], ...]
    ranges: tuple[Range, ...] = ()


@dataclass(frozen=True)
class Axis:
    """Rows or columns of a convolution.

    Attributes
    ----------
    out, extent : int
        Pixels of the output and of the input.
    kernel, stride, dilation, pad : int
        Taps of the filter, and where they lie; ``pad`` is in front.
    skip : bool
        Leave out the taps that fall outside the input.
    """

    out: int
    extent: int
    kernel: int
    stride: int
    dilation: int
    pad: int
    skip: bool

    def _missing(self, pixel: int) -> tuple[int, ...]:
        """Taps that this pixel leaves out."""
        if not self.skip:
            return ()
        start = pixel * self.stride - self.pad
        places = [start + tap * self.dilation for tap in range(self.kernel)]
        return tuple(tap for tap, at in enumerate(places) if not 0 <= at < self.extent)

    @cached_property
    def borders(self) -> list[tuple[int, ...]]:
        """The different sets of taps that pixels leave out; the first one is empty."""
        return list(dict.fromkeys([(), *(self._missing(pixel) for pixel in range(self.out))]))

    @cached_property
    def outside(self) -> bool:
        """Whether any tap of any pixel lies outside the input."""
        last = (self.out - 1) * self.stride - self.pad + (self.kernel - 1) * self.dilation
        return self.pad > 0 or last >= self.extent

    def strips(self, tile: int) -> list[Strip]:
        """Cut the axis into tiles of ``tile`` pixels, the last of which may be smaller."""
        return _strips(self, tile)


@cache
def _strips(axis: Axis, tile: int) -> list[Strip]:
    index = {border: i for i, border in enumerate(axis.borders)}
    kinds = [
        tuple(index[axis._missing(pixel)] for pixel in range(start, min(start + tile, axis.out)))
        for start in range(0, axis.out, tile)
    ]
    found, first = [], 0
    for borders, same in groupby(kinds):
        count = len(list(same))
        taps = tuple(
            tuple(i for i, border in enumerate(borders) if tap not in axis.borders[border])
            for tap in range(axis.kernel)
        )
        found.append(Strip(first, count, len(borders), borders, taps))
        first += count
    return found


def merged(axis: Axis, tile: int) -> list[Strip]:
    """Like :meth:`Axis.strips`, but where a tile has one pixel, all of them are one strip."""
    found = axis.strips(tile)
    if tile > 1 or len(found) == 1:
        return found
    ranges = []
    for strip in found:
        used = [tap for tap, pixels in enumerate(strip.taps) if pixels]
        start, end = (used[0], used[-1] + 1) if used else (0, 0)
        ranges.append(Range(strip.first, strip.borders[0], start, end))
    return [Strip(0, axis.out, 1, (0,), ((0,),) * axis.kernel, tuple(ranges))]


@dataclass(frozen=True)
class Part:
    """Consecutive steps of one row of the filter that the same pixels of a tile use."""

    first: int
    count: int
    pixels: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Sweep:
    """Consecutive rows of the filter whose steps the same pixels of a tile use.

    ``ranges`` instead of ``start`` and ``end`` if the rows are known at run time.
    """

    start: int
    end: int
    parts: tuple[Part, ...]
    ranges: tuple[Range, ...] = ()

    def rows(self, tiles: int) -> float:
        """How many rows they are, on average over ``tiles`` tiles."""
        if not self.ranges:
            return self.end - self.start
        ends = [*(r.first for r in self.ranges[1:]), tiles]
        rows = sum((r.end - r.start) * (end - r.first) for r, end in zip(self.ranges, ends))
        return rows / tiles


@dataclass(frozen=True)
class Patch:
    """Tiles that share their code: those of one strip of rows and one of columns."""

    rows: Strip
    columns: Strip

    @cached_property
    def pixels(self) -> list[tuple[int, int]]:
        """Row and column of every pixel within a tile."""
        return [(i, j) for i in range(self.rows.size) for j in range(self.columns.size)]

    def sweeps(self, row_steps: int, columns_apart: bool) -> list[Sweep]:
        """The reduction of a tile.

        Parameters
        ----------
        row_steps : int
            Steps of a row of the filter.
        columns_apart : bool
            Whether the steps of the columns of the filter can be told apart.
        """
        columns = self.columns.taps if columns_apart else (tuple(range(self.columns.size)),)
        tap_steps = row_steps // len(columns)
        found, start = [], 0
        for rows, same in groupby(self.rows.taps):
            end = start + len(list(same))
            parts, first = [], 0
            for used, taps in groupby(columns):
                count = tap_steps * len(list(taps))
                pixels = tuple((i, j) for i in rows for j in used)
                if pixels:
                    parts.append(Part(first, count, pixels))
                first += count
            if parts:
                found.append(Sweep(start, end, tuple(parts), self.rows.ranges))
            start = end
        return found
