"""How a layer is cut: register tiles, blocks of output channels, chunks for the threads.

A register tile is ``pixels × vectors`` accumulators that live in vector registers during the
whole reduction. The last tile of a row or column moves back inside, so that it computes some
pixels twice instead of needing code of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tvmquant.schedules.linear.geometry import InputPlan
from tvmquant.schedules.linear.isa import InstructionSet

# Chunks should stay in the first-level cache, heavy layers' activations in the second.
_CHUNK_BYTES = 16 << 10
_LARGE_WEIGHTS = 128 << 10
_PARALLEL_MACS = 1 << 20
_MACS_PER_CHUNK = 1 << 18
_MAX_CHUNKS = 32


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
    chunks, block_chunks : int
        Chunks of the image and of the blocks; their product is shared out to the threads.
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
    block_chunks: int
    parallel: bool

    @property
    def blocks(self) -> list[int]:
        """Output channels of every block of a group, padding included."""
        return [sum(self.vectors)] * self.full_blocks + ([sum(self.tail)] if self.tail else [])

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
    best = min(_candidates(plan, isa, widths, w_bits), key=lambda c: c[0])
    _, rows, columns, count = best
    full = len([w for w in widths if w == widths[0]]) // count
    if full == 0:
        vectors, tail, full = tuple(widths), (), 1
    else:
        vectors, tail = tuple(widths[:count]), tuple(widths[full * count :])
    tiles = -(-g.out[0] // rows) * -(-g.out[1] // columns)
    outputs = g.out[0] * g.out[1]
    depth = plan.steps * plan.step
    macs = outputs * g.images * g.out_channels * depth
    wanted = max(1, min(_MAX_CHUNKS, macs // g.images // _MACS_PER_CHUNK))
    x_bytes = plan.size[0] * plan.size[1] * plan.channels * (1 if plan.dtype == "uint8" else 2)
    large = g.out_channels * depth * w_bits // 8 > _LARGE_WEIGHTS
    limit = max(1, (8 if large else 1) * _CHUNK_BYTES * tiles // x_bytes)
    chunk_tiles = min(limit, tiles)
    if not large:
        chunk_tiles = min(chunk_tiles, -(-tiles // wanted))
    chunks = -(-tiles // chunk_tiles)
    block_chunks = min(full, max(1, wanted // chunks)) if g.groups == 1 else 1
    parallel = macs >= _PARALLEL_MACS and chunks * block_chunks > 1
    if not parallel:
        block_chunks = 1
    return Tiling(
        rows, columns, vectors, full, tail, chunk_tiles, chunks, block_chunks, parallel
    )


def _candidates(
    plan: InputPlan, isa: InstructionSet, widths: list[int], w_bits: int
) -> Iterator[tuple[float, int, int, int]]:
    """(cost, tile rows, tile columns, vectors a block) of every tile that fits the registers."""
    height, width = plan.geometry.out
    wide = len([w for w in widths if w == widths[0]])
    for count in sorted({*range(1, wide + 1), len(widths)}):
        full, rest = divmod(wide, count)
        narrow = len(widths) - wide
        blocks = [count] * full + ([rest + narrow] if rest + narrow else [])
        if full == 0:
            blocks = [len(widths)]
        held = max(blocks)
        if held > 12:
            continue
        for columns in range(1, min(width, 12) + 1):
            for rows in range(1, min(height, 12 // columns) + 1):
                pixels = rows * columns
                weights = held if pixels > 1 or w_bits < 8 else 1
                unpacked = held if w_bits < 8 else 0
                if pixels * held + weights + unpacked + isa.scratch > isa.registers:
                    continue
                tiles = -(-height // rows) * -(-width // columns)
                cost = sum(_block_cost(plan.steps, pixels, v, w_bits) for v in blocks)
                # Equal costs: prefer tiles along a row.
                yield tiles * cost * (1 + 1e-3 * (rows - 1)), rows, columns, count


def _block_cost(steps: int, pixels: int, vectors: int, w_bits: int) -> float:
    """Half cycles of one tile: two multiply-adds or loads a cycle, four cycles of latency."""
    unpack = 0 if w_bits == 8 else 2 * vectors
    step = max(pixels * vectors + unpack, pixels + vectors, 8)
    return steps * (step + 1) + 6 * pixels * vectors + 20
