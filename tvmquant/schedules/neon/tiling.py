"""How a layer is cut: register tiles, blocks of output channels, chunks for the threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tvmquant.schedules.linear.geometry import Geometry
from tvmquant.schedules.linear.tiling import Sizes
from tvmquant.schedules.neon.source import Source
from tvmquant.schedules.neon.steps import Step
from tvmquant.schedules.space import ConfigError

_REGISTERS = 32
_CHUNK_BYTES = 16 << 10
_PARALLEL_MACS = 1 << 20
_MACS_PER_CHUNK = 1 << 19
_MAX_CHUNKS = 16
_MAX_PIXELS = 12
_MAX_VECTORS = 8
# The tuner may try what costs so many times the best.
_WORTH = 1.5
# Instructions of the epilogue for four values, and of a tile's own loops and addresses.
_EPILOGUE = 7.0
_TILE = 24.0


@dataclass(frozen=True)
class Tiling:
    """Every size of the loop nest.

    Attributes
    ----------
    sizes : Sizes
    full_blocks : int
        Blocks of ``sizes.vectors`` vectors.
    tail : int
        Vectors of the last, smaller block, 0 if there is none.
    tiles : int
        Register tiles that cover one image.
    block_share : int
        Full blocks that one chunk computes.
    parallel : bool
        Whether the layer is worth threads.
    """

    sizes: Sizes
    full_blocks: int
    tail: int
    tiles: int
    block_share: int
    parallel: bool

    @property
    def blocks(self) -> list[int]:
        """Vectors of every block."""
        return [self.sizes.vectors] * self.full_blocks + ([self.tail] if self.tail else [])

    @property
    def chunks(self) -> int:
        """Chunks of the image's tiles."""
        return -(-self.tiles // self.sizes.chunk_tiles)

    @property
    def block_chunks(self) -> int:
        """Parts into which the blocks are cut."""
        return -(-self.full_blocks // self.block_share)


def choose(source: Source, step: Step, sizes: Sizes | None = None) -> Tiling:
    """Choose the sizes that take the fewest instructions, or take the ones given.

    Raises
    ------
    ConfigError
        If ``sizes`` do not fit the layer.
    """
    g = source.geometry
    if sizes is None:
        sizes = min(candidates(source, step))[1]
    fits = sizes.rows <= g.out[0] and sizes.columns <= g.out[1]
    vectors = -(-g.group_outputs // step.lanes)
    if not fits or sizes.vectors > vectors or sizes.rows * sizes.columns % step.pixels:
        raise ConfigError(f"{sizes} do not fit {g.out} pixels of {vectors} vectors")
    full, tail = divmod(vectors, sizes.vectors)
    if not tail and full > 1 and vectors * step.lanes > g.group_outputs:
        full, tail = full - 1, sizes.vectors  # the last block is not stored whole
    tiles = _tiles(g, sizes.rows, sizes.columns)
    chunks = -(-tiles // sizes.chunk_tiles)
    macs = _macs(source)
    wanted = max(1, min(_MAX_CHUNKS, macs // _MACS_PER_CHUNK))
    share = full if g.groups > 1 else -(-full // max(1, wanted // chunks))
    parallel = macs >= _PARALLEL_MACS and (chunks > 1 or share < full)
    return Tiling(sizes, full, tail, tiles, share if parallel else full, parallel)


def estimate(source: Source, step: Step, rows: int, columns: int, vectors: int) -> float:
    """Instructions of one image."""
    g = source.geometry
    count = -(-g.group_outputs // step.lanes)
    full, tail = divmod(count, vectors)
    pixels = rows * columns
    runs = source.runs[0][0] * source.runs[1][0]
    values = runs * -(-source.run // step.depth) * step.depth
    total = 0.0
    for held in [vectors] * full + ([tail] if tail else []):
        total += values * step.instructions(pixels, held) + 6 * runs + _TILE
        total += pixels * held * step.lanes / 4 * _EPILOGUE
    return total * g.groups * _tiles(g, rows, columns)


def candidates(source: Source, step: Step) -> Iterator[tuple[float, Sizes]]:
    """``(instructions, sizes)`` of every tile that the registers hold."""
    g = source.geometry
    count = -(-g.group_outputs // step.lanes)
    for vectors in range(1, min(count, _MAX_VECTORS) + 1):
        for columns in range(1, min(g.out[1], _MAX_PIXELS) + 1):
            for rows in range(1, min(g.out[0], _MAX_PIXELS // columns) + 1):
                if rows * columns % step.pixels:
                    continue
                if step.registers(rows * columns, vectors) <= _REGISTERS:
                    cost = estimate(source, step, rows, columns, vectors)
                    chunk = _chunk_tiles(source, _tiles(g, rows, columns))
                    # Equal costs: prefer tiles along a row.
                    yield cost * (1 + 1e-4 * rows), Sizes(rows, columns, vectors, chunk)


def space(source: Source, step: Step) -> dict[Sizes, float]:
    """Sizes worth measuring with their estimates, what :func:`choose` takes first."""
    ranked = sorted(candidates(source, step))
    found: dict[Sizes, float] = {ranked[0][1]: ranked[0][0]}
    for cost, sizes in ranked:
        if cost > _WORTH * ranked[0][0]:
            break
        for i, chunk in enumerate(
            (sizes.chunk_tiles, sizes.chunk_tiles * 2, sizes.chunk_tiles // 2)
        ):
            tiles = _tiles(source.geometry, sizes.rows, sizes.columns)
            tried = Sizes(sizes.rows, sizes.columns, sizes.vectors, max(1, min(chunk, tiles)))
            found.setdefault(tried, cost * (1 + 0.002 * i))
    return found


def _tiles(g: Geometry, rows: int, columns: int) -> int:
    return -(-g.out[0] // rows) * -(-g.out[1] // columns)


def _macs(source: Source) -> int:
    g = source.geometry
    runs = source.runs[0][0] * source.runs[1][0]
    return g.out[0] * g.out[1] * g.out_channels * runs * source.run


def _chunk_tiles(source: Source, tiles: int) -> int:
    size = source.elements * (2 if source.dtype == "int16" else 1)
    wanted = max(1, min(_MAX_CHUNKS, _macs(source) // _MACS_PER_CHUNK))
    return max(1, min(_CHUNK_BYTES * tiles // size, -(-tiles // wanted)))
