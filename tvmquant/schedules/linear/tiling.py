"""How a layer is cut: register tiles, blocks of output channels, chunks for the threads.

A register tile is ``pixels × vectors`` accumulators that live in vector registers during the
whole reduction. The last tile of a row or column may be smaller, and tiles at the borders of the
image leave out taps: they have code of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tvmquant.schedules.linear.geometry import Geometry, InputPlan
from tvmquant.schedules.linear.isa import InstructionSet
from tvmquant.schedules.linear.model import image_cost, work
from tvmquant.schedules.space import ConfigError

# Chunks should stay in the first-level cache, heavy layers' activations in the second.
_CHUNK_BYTES = 16 << 10
_LARGE_WEIGHTS = 128 << 10
_PARALLEL_MACS = 1 << 21
_MACS_PER_CHUNK = 1 << 20
_MAX_CHUNKS = 16
_MAX_TILE = 12  # pixels or vectors: bounds the code of one tile
# The tuner may try tiles that the model believes to spill, and what costs twice the best.
_SPILL = 2
_WORTH = 2.0


@dataclass(frozen=True)
class Tiling:
    """Every size of the loop nest.

    Attributes
    ----------
    rows, columns : int
        Output pixels of a register tile.
    vectors : tuple of int
        Lanes of the vectors of a full block of output channels.
    full_blocks : int
        How many full blocks.
    tail : tuple of int
        Lanes of the vectors of the last, smaller block; empty if there is none.
    chunk_tiles : int
        Register tiles of one chunk.
    chunks : int
        Chunks of the image.
    block_share : int
        Full blocks that one chunk computes.
    parallel : bool
        Whether the layer is worth threads.
    """

    rows: int
    columns: int
    vectors: tuple[int, ...]
    full_blocks: int
    tail: tuple[int, ...]
    chunk_tiles: int
    chunks: int
    block_share: int
    parallel: bool

    @property
    def blocks(self) -> list[int]:
        """Output channels of every block of a group, padding included."""
        return [sum(self.vectors)] * self.full_blocks + ([sum(self.tail)] if self.tail else [])

    @property
    def block_chunks(self) -> int:
        """Parts into which the blocks are cut; together with ``chunks`` the threads' work."""
        return -(-self.full_blocks // self.block_share)

    def tiles(self, geometry: Geometry) -> int:
        """Register tiles that cover one image."""
        return _tiles(geometry, self.rows, self.columns)

    @property
    def group_lanes(self) -> int:
        """Output channels of a group, padding included."""
        return sum(self.blocks)


def split_lanes(outputs: int, lanes: tuple[int, ...]) -> list[int]:
    """Vector widths that cover ``outputs`` channels with less than 4 lanes to spare."""
    left = -(-outputs // 4) * 4
    widths = []
    for width in lanes:
        widths += [width] * (left // width)
        left %= width
    return widths


@dataclass(frozen=True, order=True)
class Sizes:
    """The sizes that the tuner may change; :func:`choose` derives all others from them.

    Attributes
    ----------
    rows, columns : int
        Output pixels of a register tile.
    vectors : int
        Vectors of a full block of output channels.
    chunk_tiles : int
        Register tiles of one chunk.
    """

    rows: int
    columns: int
    vectors: int
    chunk_tiles: int


def choose(plan: InputPlan, isa: InstructionSet, w_bits: int, sizes: Sizes | None = None) -> Tiling:
    """Choose all sizes by a small model of the inner loop's cost, or take the ones given.

    Raises
    ------
    ConfigError
        If ``sizes`` do not fit the layer.
    """
    return priced(plan, isa, w_bits, sizes)[1]


def priced(
    plan: InputPlan, isa: InstructionSet, w_bits: int, sizes: Sizes | None = None
) -> tuple[float, Tiling]:
    """Like :func:`choose`, with the half cycles that the model expects."""
    g = plan.geometry
    widths, wide = _vectors(plan, isa)
    if sizes is None:
        cost, rows, columns, count = min(_candidates(plan, isa, len(widths), wide, w_bits))
    else:
        rows, columns, count = sizes.rows, sizes.columns, sizes.vectors
        fits = (
            rows <= g.out[0] and columns <= g.out[1] and count in (*range(1, wide + 1), len(widths))
        )
        if not fits:
            raise ConfigError(f"{sizes} does not fit {g.out} pixels of {sum(widths)} channels")
        cost = image_cost(
            plan, isa, work(plan, rows, columns), _blocks(wide, len(widths), count), w_bits
        )
    full = wide // count
    vectors, tail = tuple(widths[:count]), tuple(widths[full * count :])
    if full == 0:
        vectors, tail, full = tuple(widths), (), 1
    tiles = _tiles(g, rows, columns)
    macs = _macs(plan)
    wanted = _wanted_chunks(plan)
    if sizes is None:
        chunk_tiles = _chunk_tiles(plan, w_bits, tiles)
    else:
        chunk_tiles = min(sizes.chunk_tiles, tiles)
    chunks = -(-tiles // chunk_tiles)
    share = full if g.groups > 1 else -(-full // max(1, wanted // chunks))
    parallel = macs >= _PARALLEL_MACS and (chunks > 1 or share < full)
    share = share if parallel else full
    made = Tiling(rows, columns, vectors, full, tail, chunk_tiles, chunks, share, parallel)
    return cost, made


def space(plan: InputPlan, isa: InstructionSet, w_bits: int) -> list[tuple[float, Sizes]]:
    """``(estimate, sizes)`` of everything worth measuring, what :func:`choose` takes first."""
    g = plan.geometry
    widths, wide = _vectors(plan, isa)
    default = choose(plan, isa, w_bits)
    least = min(default.chunks * default.block_chunks, max(2, _wanted_chunks(plan) // 2))
    priced: dict[Sizes, float] = {}
    for cost, rows, columns, count in _candidates(
        plan, isa, len(widths), wide, w_bits, _MAX_TILE + 4, _SPILL
    ):
        tiles = _tiles(g, rows, columns)
        usual = _chunk_tiles(plan, w_bits, tiles)
        for step, chunk in enumerate((usual, usual // 2, 2 * usual, 8 * usual)):
            sizes = Sizes(rows, columns, count, max(1, min(chunk, tiles)))
            made = choose(plan, isa, w_bits, sizes)
            # Whatever is fastest on one thread must still leave work for the others.
            enough = not default.parallel or made.chunks * made.block_chunks >= least
            if enough and made.parallel == default.parallel:
                priced.setdefault(sizes, cost * (1 + 0.002 * step))
    first = Sizes(default.rows, default.columns, _count(default), default.chunk_tiles)
    cheapest = min([cost for cost in priced.values()], default=0.0)
    price = priced.pop(first, cheapest)
    rest = sorted((cost, sizes) for sizes, cost in priced.items() if cost < _WORTH * cheapest)
    return [(price, first), *rest]


def _vectors(plan: InputPlan, isa: InstructionSet) -> tuple[list[int], int]:
    """Widths of a group's vectors, and how many of them can make up full blocks."""
    outputs = plan.geometry.group_outputs
    widths = split_lanes(outputs, isa.lanes)
    # A vector with lanes to spare is stored in pieces: it belongs into the last block.
    exact = len(widths) - (sum(widths) > outputs)
    return widths, len([w for w in widths[:exact] if w == widths[0]])


def _count(tiling: Tiling) -> int:
    """Vectors of a block as :class:`Sizes` counts them."""
    return len(tiling.vectors)


def _macs(plan: InputPlan) -> int:
    g = plan.geometry
    return g.out[0] * g.out[1] * g.out_channels * plan.steps * plan.step


def _wanted_chunks(plan: InputPlan) -> int:
    """Pieces of work that the threads should find."""
    return max(1, min(_MAX_CHUNKS, _macs(plan) // _MACS_PER_CHUNK))


def _chunk_tiles(plan: InputPlan, w_bits: int, tiles: int) -> int:
    """Default number of register tiles of one chunk."""
    g = plan.geometry
    x_bytes = plan.size[0] * plan.size[1] * plan.channels * (1 if plan.dtype == "uint8" else 2)
    heavy = g.out_channels * plan.steps * plan.step * w_bits // 8 > _LARGE_WEIGHTS
    # Heavy weights are read once a chunk: larger chunks, and threads share the blocks.
    limit = max(1, (8 if heavy else 1) * _CHUNK_BYTES * tiles // x_bytes)
    return min(tiles, limit) if heavy else min(limit, -(-tiles // _wanted_chunks(plan)))


def _tiles(g: Geometry, rows: int, columns: int) -> int:
    return -(-g.out[0] // rows) * -(-g.out[1] // columns)


def _candidates(
    plan: InputPlan,
    isa: InstructionSet,
    total: int,
    wide: int,
    w_bits: int,
    max_tile: int = _MAX_TILE,
    spill: int = 0,
) -> Iterator[tuple[float, int, int, int]]:
    """(cost, tile rows, tile columns, vectors a block) of every tile that fits the registers.

    ``wide`` of the ``total`` vectors can make up full blocks, the others go into the last one.
    ``spill`` registers may be missing.
    """
    g = plan.geometry
    for count in sorted({*range(1, wide + 1), total}):
        blocks = _blocks(wide, total, count)
        held = max(blocks)
        if held > max_tile and count > 1:
            continue
        for columns in range(1, min(g.out[1], max_tile) + 1):
            for rows in range(1, min(g.out[0], max_tile // columns) + 1):
                pixels = rows * columns
                weights = held if pixels > 1 or w_bits < 8 else 1
                unpacked = held if w_bits < 8 else 0
                needed = pixels * held + weights + unpacked + isa.scratch
                if needed > isa.registers + spill and (count, pixels) != (1, 1):
                    continue
                # Equal costs: prefer tiles along a row.
                cost = image_cost(plan, isa, work(plan, rows, columns), blocks, w_bits)
                yield cost * (1 + 1e-3 * (rows - 1)), rows, columns, count


def _blocks(wide: int, total: int, count: int) -> list[int]:
    """Vectors of every block when a full one has ``count``."""
    full = wide // count
    rest = total - full * count
    return [count] * full + ([rest] if rest else [])
