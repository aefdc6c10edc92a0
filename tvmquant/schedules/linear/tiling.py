"""How a layer is cut: register tiles, blocks of output channels, chunks for the threads.

A register tile is ``pixels × vectors`` accumulators that live in vector registers during the
whole reduction. The last tile of a row or column moves back inside, so that it computes some
pixels twice instead of needing code of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tvmquant.schedules.linear.geometry import Geometry, InputPlan
from tvmquant.schedules.linear.isa import InstructionSet

# Chunks should stay in the first-level cache, heavy layers' activations in the second.
_CHUNK_BYTES = 16 << 10
_LEVEL1_WEIGHTS = 24 << 10
_LARGE_WEIGHTS = 128 << 10
_PARALLEL_MACS = 1 << 21
_MACS_PER_CHUNK = 1 << 20
_MAX_CHUNKS = 16
_MAX_TILE = 12  # pixels or vectors: bounds the code of one tile


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


def choose(plan: InputPlan, isa: InstructionSet, w_bits: int) -> Tiling:
    """Choose all sizes by a small model of the inner loop's cost."""
    g = plan.geometry
    widths = split_lanes(g.group_outputs, isa.lanes)
    # A vector with lanes to spare is stored in pieces: it belongs into the last block.
    exact = len(widths) - (sum(widths) > g.group_outputs)
    wide = len([w for w in widths[:exact] if w == widths[0]])
    _, rows, columns, count = min(_candidates(plan, isa, len(widths), wide, w_bits))
    full = wide // count
    vectors, tail = tuple(widths[:count]), tuple(widths[full * count :])
    if full == 0:
        vectors, tail, full = tuple(widths), (), 1
    tiles = _tiles(g, rows, columns)
    depth = plan.steps * plan.step
    macs = g.out[0] * g.out[1] * g.out_channels * depth
    wanted = max(1, min(_MAX_CHUNKS, macs // _MACS_PER_CHUNK))
    x_bytes = plan.size[0] * plan.size[1] * plan.channels * (1 if plan.dtype == "uint8" else 2)
    heavy = g.out_channels * depth * w_bits // 8 > _LARGE_WEIGHTS
    # Heavy weights are read once a chunk: larger chunks, and threads share the blocks.
    limit = max(1, (8 if heavy else 1) * _CHUNK_BYTES * tiles // x_bytes)
    chunk_tiles = min(tiles, limit) if heavy else min(limit, -(-tiles // wanted))
    chunks = -(-tiles // chunk_tiles)
    share = full if g.groups > 1 else -(-full // max(1, wanted // chunks))
    parallel = macs >= _PARALLEL_MACS and (chunks > 1 or share < full)
    share = share if parallel else full
    return Tiling(rows, columns, vectors, full, tail, chunk_tiles, chunks, share, parallel)


def _tiles(g: Geometry, rows: int, columns: int) -> int:
    return -(-g.out[0] // rows) * -(-g.out[1] // columns)


def _candidates(
    plan: InputPlan, isa: InstructionSet, total: int, wide: int, w_bits: int
) -> Iterator[tuple[float, int, int, int]]:
    """(cost, tile rows, tile columns, vectors a block) of every tile that fits the registers.

    ``wide`` of the ``total`` vectors can make up full blocks, the others go into the last one.
    """
    g = plan.geometry
    for count in sorted({*range(1, wide + 1), total}):
        full = wide // count
        rest = total - full * count
        blocks = [count] * full + ([rest] if rest else [])
        held = max(blocks)
        if held > _MAX_TILE and count > 1:
            continue
        for columns in range(1, min(g.out[1], _MAX_TILE) + 1):
            for rows in range(1, min(g.out[0], _MAX_TILE // columns) + 1):
                pixels = rows * columns
                weights = held if pixels > 1 or w_bits < 8 else 1
                unpacked = held if w_bits < 8 else 0
                needed = pixels * held + weights + unpacked + isa.scratch
                if needed > isa.registers and (count, pixels) != (1, 1):
                    continue
                cost = sum(_block_cost(plan, isa, pixels, v, w_bits) for v in blocks)
                # Equal costs: prefer tiles along a row.
                cost *= _tiles(g, rows, columns) * (1 + 1e-3 * (rows - 1))
                yield cost, rows, columns, count


def _block_cost(
    plan: InputPlan, isa: InstructionSet, pixels: int, vectors: int, w_bits: int
) -> float:
    """Half cycles of one tile.

    Two multiplications and two loads a cycle, four cycles of latency, half a vector a cycle
    from the second-level cache for weights that the first one cannot hold.
    """
    unpack = 0 if w_bits == 8 else 2 * vectors
    loads = pixels + isa.weight_cost * vectors
    step = max(isa.multiplies * pixels * vectors + unpack, loads, 8)
    if plan.steps * vectors * isa.lanes[0] * isa.step * w_bits // 8 > _LEVEL1_WEIGHTS:
        step = max(step, 4 * vectors * w_bits // 8)
    return plan.steps * (step + 1 + 0.1 * loads) + 6 * pixels * vectors + 20
