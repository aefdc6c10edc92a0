"""How a layer is cut for the kernel that multiplies by table, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator

from tvmquant.schedules.bits.source import PackedInput
from tvmquant.schedules.bits.tables import Tables
from tvmquant.schedules.linear.geometry import Geometry
from tvmquant.schedules.linear.tiling import Tiling

_MAX_PIXELS = 8
_MAX_SUMS = 16  # bounds the code of one tile
_CHUNK_BYTES = 16 << 10
_LARGE_WEIGHTS = 128 << 10
_PARALLEL_CYCLES = 1 << 15
_CYCLES_PER_CHUNK = 1 << 14
_MAX_CHUNKS = 16


def choose(source: PackedInput, isa: Tables) -> tuple[float, Tiling]:
    """Estimated cycles of one image, and the sizes that take the fewest."""
    g = source.geometry
    widths = _split(g.out_channels, isa.lanes)
    cost, rows, columns, count = min(_candidates(source, isa, widths))
    full, vectors, tail = _blocks(widths, count, g.out_channels)
    tiles = _tiles(g, rows, columns)
    weight_bytes = sum(widths) * source.steps * isa.index_bits // 8
    x_bytes = source.workspace * 2
    heavy = weight_bytes > _LARGE_WEIGHTS
    wanted = max(1, min(_MAX_CHUNKS, int(cost) // _CYCLES_PER_CHUNK))
    # Heavy weights are read once a chunk: larger chunks, and threads share the blocks.
    limit = max(1, (8 if heavy else 1) * _CHUNK_BYTES * tiles // x_bytes)
    chunk_tiles = min(tiles, limit) if heavy else min(limit, -(-tiles // wanted))
    chunks = -(-tiles // chunk_tiles)
    share = -(-full // max(1, wanted // chunks))
    parallel = cost >= _PARALLEL_CYCLES and (chunks > 1 or share < full)
    share = share if parallel else full
    return cost, Tiling(rows, columns, vectors, full, tail, chunk_tiles, chunks, share, parallel)


def _split(outputs: int, lanes: tuple[int, ...]) -> list[int]:
    """Vector widths that cover ``outputs`` channels with the fewest vectors."""
    widths, left = [], outputs
    while left > 0:
        widths.append(min((w for w in lanes if w >= left), default=lanes[0]))
        left -= widths[-1]
    return widths


def _blocks(
    widths: list[int], count: int, outputs: int
) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """(full blocks, their vectors, vectors of the last block)."""
    exact = len(widths) - (sum(widths) > outputs)  # only the last block is stored in pieces
    full = len([w for w in widths[:exact] if w == widths[0]]) // count
    if full == 0:
        return 1, tuple(widths), ()
    return full, tuple(widths[:count]), tuple(widths[full * count :])


def _candidates(
    source: PackedInput, isa: Tables, widths: list[int]
) -> Iterator[tuple[float, int, int, int]]:
    """(cycles, tile rows, tile columns, vectors a block) of every tile that fits the registers."""
    g = source.geometry
    for count in range(1, len(widths) + 1):
        full, vectors, tail = _blocks(widths, count, g.out_channels)
        held = max(len(vectors), len(tail))
        for columns in range(1, min(g.out[1], _MAX_PIXELS) + 1):
            for rows in range(1, min(g.out[0], _MAX_PIXELS // columns) + 1):
                pixels = rows * columns
                needed = (pixels + 1) * held + 3
                fits = needed <= isa.registers and pixels * held <= _MAX_SUMS
                if not fits and pixels * count > 1:
                    continue
                cost = full * _tile_cost(source, isa, pixels, len(vectors))
                if tail:
                    cost += _tile_cost(source, isa, pixels, len(tail))
                cost *= _tiles(g, rows, columns) * (1 + 1e-3 * (rows - 1))
                packing = source.pixels * (4 + isa.group * source.channels / 16)
                yield cost + packing, rows, columns, count


def _tiles(g: Geometry, rows: int, columns: int) -> int:
    return -(-g.out[0] // rows) * -(-g.out[1] // columns)


def _tile_cost(source: PackedInput, isa: Tables, pixels: int, vectors: int) -> float:
    """Cycles of one tile: four vector operations, or two shuffles, or one row a cycle."""
    count, wide = pixels * vectors, isa.lanes[0] == 64
    unpack = (2 if isa.entries == 16 else 5) * vectors / isa.steps
    operations = (2 * count + unpack) / 4
    # A row is found through an index: two loads, one after the other.
    step = max(operations, (0.75 if wide else 0.5) * count, (1 if wide else 0.8) * pixels) + 0.7
    # The wide sums stay in registers, or go through memory.
    fits = 3 * count + vectors * (1 + 2 * isa.words) + 2 <= isa.registers
    widening = (0.75 if fits else 4 if wide else 1.5) * count
    turns = -(-source.steps // (isa.span * isa.steps))
    return source.steps * step + turns * widening + (7 if wide else 14) * count + 20
