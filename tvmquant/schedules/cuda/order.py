"""The order in which blocks go over the tiles of an output: what a wave of them reads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Protocol

from tvmquant.schedules.cuda.facts import Sizes, occupancy
from tvmquant.schedules.cuda.tiles import outputs_of, rows_of
from tvmquant.schedules.workload import Workload
from tvmquant.targets.cuda import Arch

# Rows of tiles that blocks may go over together. What that saves has to be more than a little.
_BANDS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_ENOUGH = 0.95
# Part of the cache to count on: what everybody reads may lie in both of its halves.
_KEPT = 0.5


class Weighed(Sizes, Protocol):
    """Tiles whose weights have bits."""

    w_bits: int


def band_of(workload: Workload, plan: Weighed, arch: Arch, registers: int) -> int:
    """Rows of tiles that the blocks of a layer go over together.

    Parameters
    ----------
    workload : Workload
    plan : Weighed
        Its sizes.
    arch : Arch
    registers : int
        Of a thread.
    """
    tiles = (-(-rows_of(workload) // plan.block_m), -(-outputs_of(workload) // plan.block_n))
    # Taps of neighbouring pixels are the same bytes.
    x_bits = math.prod(workload.x_shape) * getattr(plan, "element_bits", 8)
    row = x_bits // (8 * workload.groups * tiles[0])
    column = plan.block_n * math.prod(workload.w_shape[1:]) * plan.w_bits // 8
    filled = occupancy(math.prod(tiles), plan.threads, plan.shared_bytes, registers, arch)
    wave = arch.multiprocessors * int(filled["resident"])
    return best_band(tiles, (row, column), wave, arch.cache_bytes)


@lru_cache(maxsize=1024)
def best_band(
    tiles: tuple[int, int], tile_bytes: tuple[int, int], wave: int, cache_bytes: int
) -> int:
    """Rows of tiles in a band: the bytes that waves touch are fewest; 1 where it saves little.

    Parameters
    ----------
    tiles : tuple of int
        Rows and columns of tiles.
    tile_bytes : tuple of int
        Activations of a row of tiles, weights of a column.
    wave : int
        Blocks that run at the same time.
    cache_bytes : int
        Cache that all multiprocessors share.
    """
    rows, columns = tiles
    # With bands of one, rows come once, and columns where all of them stay beside a wave's rows.
    under_way = min(rows, -(-wave // columns) + 1)
    kept = columns * tile_bytes[1] + under_way * tile_bytes[0]
    if min(tiles) == 1 or wave >= rows * columns or kept <= _KEPT * cache_bytes:
        return 1
    known = [band for band in _BANDS if band <= rows]
    cost = {band: touched_bytes(tiles, tile_bytes, wave, band) for band in known}
    best = min(known, key=lambda band: cost[band])
    return best if cost[best] < _ENOUGH * cost[1] else 1


def touched_bytes(tiles: tuple[int, int], tile_bytes: tuple[int, int], wave: int, band: int) -> int:
    """Bytes that the waves of blocks touch, all of them together.

    Parameters
    ----------
    tiles, tile_bytes, wave
        As for :func:`best_band`.
    band : int
        Rows of tiles that blocks go over column by column, before they go on to the next ones.
    """
    total = 0
    for first in range(0, math.prod(tiles), wave):
        rows = columns = 0
        for height, begin, end in _pieces(tiles, band, first, first + wave):
            rows += min(height, end - begin)
            columns += (end - 1) // height - begin // height + 1
        # Of two bands it is the last columns of one, the first ones of the other.
        total += rows * tile_bytes[0] + min(columns, tiles[1]) * tile_bytes[1]
    return total


def _pieces(
    tiles: tuple[int, int], band: int, begin: int, end: int
) -> Iterator[tuple[int, int, int]]:
    """Height of each band that blocks ``begin`` to ``end`` lie in, and their numbers there."""
    rows, columns = tiles
    for first in range(begin // (band * columns) * band, rows, band):
        start, height = first * columns, min(band, rows - first)
        if start >= end:
            return
        yield height, max(begin - start, 0), min(end - start, height * columns)
