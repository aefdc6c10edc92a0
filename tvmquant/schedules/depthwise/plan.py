"""Blocking of a depthwise convolution: channel blocks, row tiles, column tiles."""

from __future__ import annotations

from dataclasses import dataclass

from tvmquant.schedules.space import ConfigError
from tvmquant.schedules.workload import Workload

# Columns of a tile; wider ones spill registers.
_MAX_COLUMNS = {1: 2, 4: 4}
# What the tuner tries.
_TUNED_ROWS = 4
_TUNED_PIXELS = 12
_TASKS_PER_CORE = 4
# Below this (about ten microseconds) threads cost more than they bring.
_PARALLEL_MACS = 1 << 20


@dataclass(frozen=True)
class Plan:
    """How a depthwise convolution is cut up.

    A *row tile* computes ``rows`` output rows from the input rows ``top + line`` for ``line`` in
    ``lines``. Lines are taken ``group`` at a time: one *slot* holds the ``group`` values of one
    channel side by side, which is what a dot-product instruction eats.

    Attributes
    ----------
    width : int
        Channels of a block.
    blocks : int
        Channel blocks; the last one overlaps its neighbour when ``width`` does not divide.
    channels : int
        Output channels.
    group : int
        Lines in a slot: 4 for dot products, 1 for plain multiply-add.
    rows, columns : int
        Output rows and columns of a tile.
    lines : tuple of int
        Input lines of a row tile, relative to its first one, ascending.
    taps : tuple of (int, int, tuple)
        ``(row, slot, kernel rows)``: the kernel row (or None) that each line of the slot meets
        in that output row. Pairs without any tap are absent.
    row_tiles, column_tiles : int
    tasks_per_block : int
        Row tiles are dealt to this many parallel tasks.
    needed_columns : int
        Columns of the padded input that one row tile reads.
    parallel : bool
        Whether the layer is worth threads.
    """

    width: int
    blocks: int
    channels: int
    group: int
    rows: int
    columns: int
    lines: tuple[int, ...]
    taps: tuple[tuple[int, int, tuple[int | None, ...]], ...]
    row_tiles: int
    column_tiles: int
    tasks_per_block: int
    needed_columns: int
    parallel: bool

    @property
    def slots(self) -> int:
        """Slots of a column."""
        return -(-len(self.lines) // self.group)

    def block_start(self, block: int) -> int:
        """First channel of a block."""
        return min(block * self.width, max(self.channels - self.width, 0))


@dataclass(frozen=True, order=True)
class Sizes:
    """The sizes that the tuner may change, named as in :class:`Plan`."""

    width: int
    rows: int
    columns: int


def make_plan(
    workload: Workload,
    widths: tuple[int, ...],
    group: int,
    num_cores: int,
    sizes: Sizes | None = None,
) -> Plan:
    """Choose the blocking.

    Parameters
    ----------
    workload : Workload
        ``depthwise_conv2d``.
    widths : tuple of int
        Channel block sizes that the instruction set offers, descending; all multiples of 16.
    group : int
        Lines in a slot.
    num_cores : int
        Cores of the device.
    sizes : Sizes, optional
        What the tuner found; a rule of thumb without it.

    Raises
    ------
    ConfigError
        If ``sizes`` do not fit the layer.
    """
    n, oh, ow, channels = workload.out_shape
    kh, kw = workload.w_shape[1:3]
    allowed = _widths(workload, widths)
    if sizes is None:
        sizes = _default_sizes(workload, allowed, group)
    elif sizes.width not in allowed or sizes.rows > oh or sizes.columns > ow:
        raise ConfigError(f"{sizes} does not fit {oh}x{ow} pixels of {channels} channels")
    width, rows, columns = sizes.width, sizes.rows, sizes.columns
    blocks = -(-channels // width)
    lines, taps = tile_taps(rows, kh, workload.strides[0], workload.dilation[0], group)
    row_tiles = -(-oh // rows)
    tasks = -(-_TASKS_PER_CORE * num_cores // (blocks * n))
    parallel = num_cores > 1 and workload.macs >= _PARALLEL_MACS
    return Plan(
        width=width,
        blocks=blocks,
        channels=channels,
        group=group,
        rows=rows,
        columns=columns,
        lines=lines,
        taps=taps,
        row_tiles=row_tiles,
        column_tiles=-(-ow // columns),
        tasks_per_block=min(row_tiles, tasks) if parallel else 1,
        needed_columns=(ow - 1) * workload.strides[1] + (kw - 1) * workload.dilation[1] + 1,
        parallel=parallel,
    )


def space(workload: Workload, widths: tuple[int, ...], group: int) -> list[Sizes]:
    """Everything worth measuring, what :func:`make_plan` takes first."""
    _, oh, ow, _ = workload.out_shape
    allowed = _widths(workload, widths)
    first = _default_sizes(workload, allowed, group)
    found = [
        Sizes(width, rows, columns)
        for width in allowed
        for rows in range(1, min(oh, _TUNED_ROWS) + 1)
        for columns in range(1, min(ow, _TUNED_PIXELS // rows) + 1)
    ]
    return [first, *(sizes for sizes in found if sizes != first)]


def _widths(workload: Workload, widths: tuple[int, ...]) -> tuple[int, ...]:
    """Channel blocks to choose from, the widest first."""
    channels = workload.out_shape[3]
    fitting = tuple(w for w in widths if w <= channels)
    # A channel multiplier gathers its inputs one by one: the narrowest vector does.
    return fitting if fitting and channels == workload.x_shape[3] else widths[-1:]


def _default_sizes(workload: Workload, allowed: tuple[int, ...], group: int) -> Sizes:
    _, oh, ow, _ = workload.out_shape
    rows = _choose_rows(workload, group, oh)
    return Sizes(allowed[0], rows, _choose_columns(ow, _MAX_COLUMNS[group]))


def tile_taps(
    rows: int, kh: int, stride: int, dilation: int, group: int
) -> tuple[tuple[int, ...], tuple[tuple[int, int, tuple[int | None, ...]], ...]]:
    """``lines`` and ``taps`` of :class:`Plan` for tiles of so many output rows."""
    lines = sorted({r * stride + i * dilation for r in range(rows) for i in range(kh)})
    taps = []
    for slot in range(-(-len(lines) // group)):
        held = lines[slot * group : (slot + 1) * group]
        for r in range(rows):
            offsets = [line - r * stride for line in held]
            hit = [
                o // dilation if o >= 0 and o % dilation == 0 and o // dilation < kh else None
                for o in offsets
            ]
            if any(i is not None for i in hit):
                taps.append((r, slot, (*hit, *[None] * (group - len(hit)))))
    return tuple(lines), tuple(taps)


def _choose_rows(workload: Workload, group: int, out_rows: int) -> int:
    """Output rows of a tile: two where that needs no more slots than one, else one.

    Two rows share the interleaving of their inputs; more rows were slower in every layer tried.
    """
    if group == 1 or out_rows < 2:
        return 1
    kh, stride, dilation = workload.w_shape[1], workload.strides[0], workload.dilation[0]
    one, two = (len(tile_taps(r, kh, stride, dilation, group)[0]) for r in (1, 2))
    return 2 if -(-one // group) == -(-two // group) else 1


def _choose_columns(out_columns: int, limit: int) -> int:
    """Output columns of a tile: little waste in the last tile first, then wide."""
    sizes = range(max(1, min(limit, out_columns) // 2), min(limit, out_columns) + 1)
    return min(sizes, key=lambda p: (-(-out_columns // p) * (p + 0.5), -p))
