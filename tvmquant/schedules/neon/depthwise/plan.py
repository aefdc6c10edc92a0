"""How a depthwise layer is cut on 64-bit ARM: channel blocks, bands of rows, columns of a tile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvmquant.schedules.linear.tir import Expr
from tvmquant.schedules.space import ConfigError
from tvmquant.schedules.workload import Workload

WIDTH = 16
# The lines of a band stay in the first cache.
_BAND_BYTES = 24 << 10
_MIN_BAND = 4
_TASKS_PER_CORE = 4
_PARALLEL_MACS = 1 << 20
# Sums of a tile fill half of the registers.
_PIXELS = 4
# So many columns are computed at once rather than some of them twice.
_NARROW = 7
# Instructions of a tile that do not depend on its columns, in those of a column.
_TILE = 0.4
# What the tuner tries.
_TUNED_COLUMNS = 8


# The four int32x4 of a block's bias for outputs of a colour, and what takes the sums of a tile's
# pixels ``(row, column)``.
Bias = Callable[[int], list[Expr]]
Finish = Callable[[dict[tuple[int, int], list[Expr]]], None]


@dataclass(frozen=True)
class Task:
    """A block of channels of a band of rows, int64 scalars.

    Attributes
    ----------
    image : Expr
    first, rows : Expr
        Output rows.
    channel : Expr
        First channel.
    """

    image: Expr
    first: Expr
    rows: Expr
    channel: Expr


@dataclass(frozen=True, order=True)
class Sizes:
    """The sizes that the tuner may change.

    Attributes
    ----------
    columns : int
        Output columns of a register tile.
    band : int
        Output rows whose input is copied at once.
    """

    columns: int
    band: int


@dataclass(frozen=True)
class Plan:
    """Every size of the loop nest.

    Attributes
    ----------
    workload : Workload
    rows : int
        Output rows of a tile.
    sizes : Sizes
    parallel : bool
        Whether the layer is worth threads.
    """

    workload: Workload
    rows: int
    sizes: Sizes
    parallel: bool

    @property
    def width(self) -> int:
        """Channels of a block."""
        return WIDTH

    @property
    def channels(self) -> int:
        """Channels of the layer."""
        return self.workload.x_shape[3]

    @property
    def blocks(self) -> int:
        """Channel blocks; the last one overlaps its neighbour where ``width`` does not divide."""
        return -(-self.channels // WIDTH)

    @property
    def bands(self) -> int:
        """Bands of an image."""
        return -(-self.workload.out_shape[1] // self.sizes.band)

    @property
    def tiles(self) -> int:
        """Tiles of a row; the last one moves back inside."""
        return -(-self.workload.out_shape[2] // self.sizes.columns)

    @property
    def span(self) -> int:
        """Lines that one output row reads."""
        return _span(self.workload)

    @property
    def read_columns(self) -> int:
        """Columns of the padded input that are read."""
        return _read_columns(self.workload)

    def block_start(self, block: int) -> int:
        """First channel of a block."""
        return min(block * WIDTH, self.channels - WIDTH)

    def lines(self, rows: int) -> int:
        """Lines that so many output rows read."""
        return (rows - 1) * self.workload.strides[0] + self.span


def make_plan(workload: Workload, rows: int, cores: int, sizes: Sizes | None = None) -> Plan:
    """Choose the sizes, or take the ones given.

    Parameters
    ----------
    workload : Workload
    rows : int
        Output rows of a tile.
    cores : int
        Of the device.
    sizes : Sizes, optional
        What the tuner found.

    Raises
    ------
    ConfigError
        If ``sizes`` do not fit the layer.
    """
    _, height, width, _ = workload.out_shape
    parallel = cores > 1 and workload.macs >= _PARALLEL_MACS
    if sizes is None:
        band = max(rows, _band(workload, cores if parallel else 1) // rows * rows)
        sizes = Sizes(_columns(width, max(1, _PIXELS // rows)), band)
    elif sizes.columns > width or not rows <= sizes.band <= height:
        raise ConfigError(f"{sizes} do not fit {height}x{width} pixels, {rows} rows a tile")
    return Plan(workload, rows, sizes, parallel)


def space(plan: Plan) -> list[Sizes]:
    """Sizes worth measuring, those of ``plan`` first."""
    _, rows, columns, _ = plan.workload.out_shape
    band = plan.sizes.band
    bands = sorted({max(plan.rows, band // 2), band, min(rows, 2 * band)})
    found = [Sizes(c, b) for b in bands for c in range(1, min(columns, _TUNED_COLUMNS) + 1)]
    return [plan.sizes, *(sizes for sizes in found if sizes != plan.sizes)]


def _columns(columns: int, most: int) -> int:
    """All of a narrow layer's; else little waste in the last tile first, then wide."""
    if most == _PIXELS and columns <= _NARROW:
        return columns
    tried = range(1, min(most, columns) + 1)
    return min(tried, key=lambda size: (-(-columns // size) * (size + _TILE), -size))


def _band(workload: Workload, cores: int) -> int:
    """Rows of bands of about equal size."""
    images, rows, _, channels = workload.out_shape
    fitting = _BAND_BYTES // (WIDTH * _read_columns(workload))
    most = max(_MIN_BAND, (fitting - _span(workload)) // workload.strides[0] + 1)
    bands = -(-rows // most)
    if cores > 1:
        wanted = -(-_TASKS_PER_CORE * cores // (images * -(-channels // WIDTH)))
        bands = max(bands, min(wanted, -(-rows // _MIN_BAND)))
    return -(-rows // bands)


def _span(workload: Workload) -> int:
    return (workload.w_shape[1] - 1) * workload.dilation[0] + 1


def _read_columns(workload: Workload) -> int:
    reach = (workload.w_shape[2] - 1) * workload.dilation[1] + 1
    return (workload.out_shape[2] - 1) * workload.strides[1] + reach
