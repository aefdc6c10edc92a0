"""Register tiles of the float kernels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvmquant.schedules.space import ConfigError
from tvmquant.targets.device import Device

# Two multiply-adds a cycle of four cycles latency: this many sums hide it.
_CHAINS = 8
_MAX_VECTORS = 8
_MAX_PIXELS = 14
_LINE = 16


# Below this (some microseconds) threads cost more than they bring.
_PARALLEL_MACS = 1 << 20


def worth_threads(macs: int, device: Device) -> bool:
    """Whether a layer is worth threads."""
    return device.num_cores > 1 and macs >= _PARALLEL_MACS


@dataclass(frozen=True)
class Machine:
    """Vector registers of a device.

    Attributes
    ----------
    lanes : tuple of int
        float32 lanes of the vectors it has, descending, the last is 4.
    registers : int
    fma : bool
        Whether a fused multiply-add is one instruction.
    """

    lanes: tuple[int, ...]
    registers: int
    fma: bool

    @classmethod
    def of(cls, device: Device) -> Machine:
        """Read them off the device's features."""
        features = device.features
        if "avx512f" in features:
            return cls((16, 8, 4), 32, True)
        if "avx2" in features:
            return cls((8, 4), 16, "fma" in features)
        neon = "neon" in features
        return cls((4,), 32 if neon else 16, neon)

    def fit(self, channels: int) -> int:
        """Widest vector that is not wider than ``channels``, else the narrowest."""
        return next((n for n in self.lanes if n <= channels), self.lanes[-1])


@dataclass(frozen=True)
class Tile:
    """``rows × columns`` pixels by ``vectors`` of ``lanes`` output channels.

    Attributes
    ----------
    chains : int
        Partial sums of every accumulator, added up at the end.
    """

    rows: int
    columns: int
    vectors: int
    lanes: int
    chains: int = 1

    @property
    def width(self) -> int:
        """Output channels."""
        return self.vectors * self.lanes


def block_count(channels: int, width: int) -> int:
    """Blocks that cover ``channels``; the last one moves back inside."""
    return -(-channels // width)


def block_lanes(channels: int, width: int) -> np.ndarray:
    """int64 ``[blocks, width]``: channel of every lane, lanes without one repeat the last."""
    starts = np.arange(block_count(channels, width)) * width
    starts = np.minimum(starts, max(channels - width, 0))
    return np.minimum(starts[:, None] + np.arange(width), channels - 1)


@dataclass(frozen=True, order=True)
class Sizes:
    """The sizes of a tile that the tuner may change, named as in :class:`Tile`."""

    rows: int
    columns: int
    vectors: int


def choose_tile(
    out: tuple[int, int], channels: int, machine: Machine, sizes: Sizes | None = None
) -> Tile:
    """Tile of a convolution: the cheapest by loads and multiply-adds.

    Parameters
    ----------
    out : (int, int)
        Output rows and columns.
    channels : int
        Output channels of one group.
    machine : Machine
    sizes : Sizes, optional
        What the tuner found.

    Raises
    ------
    ConfigError
        If ``sizes`` do not fit the layer.
    """
    lanes = machine.fit(channels)
    if sizes is None:
        best = priced_tiles(out, channels, machine)[0][1]
    else:
        best = sizes
        if (
            best.rows > out[0]
            or best.columns > out[1]
            or best.vectors > most_vectors(channels, lanes)
        ):
            raise ConfigError(f"{sizes} does not fit {out} pixels of {channels} channels")
    chains = max(1, _CHAINS // (best.rows * best.columns * best.vectors))
    return Tile(best.rows, best.columns, best.vectors, lanes, chains)


def most_vectors(channels: int, lanes: int) -> int:
    """Vectors of the widest block."""
    return max(1, min(channels // lanes, _MAX_VECTORS))


def priced_tiles(
    out: tuple[int, int], channels: int, machine: Machine
) -> list[tuple[float, Sizes]]:
    """``(cost, sizes)`` of every tile that fits the registers, the cheapest first."""
    lanes = machine.fit(channels)
    most = most_vectors(channels, lanes)

    def cost(tile: Sizes) -> float:
        pixels = tile.rows * tile.columns
        tiles = -(-out[0] // tile.rows) * -(-out[1] // tile.columns)
        step = max(pixels * tile.vectors, pixels + tile.vectors, _CHAINS)
        # Wide tiles along a row read fewer cache lines.
        blocks = block_count(channels, tile.vectors * lanes)
        return tiles * blocks * (step + 1 + 0.01 * tile.rows)

    scratch = 1 if machine.fma else 3  # the broadcast value, and products
    tiles = [
        Sizes(rows, columns, vectors)
        for vectors in range(1, most + 1)
        for columns in range(1, min(out[1], _MAX_PIXELS) + 1)
        for rows in range(1, min(out[0], _MAX_PIXELS // columns) + 1)
        if rows * columns * vectors + vectors + scratch <= machine.registers
    ]
    # A stable sort: of equal costs the fewer vectors win.
    return sorted(((cost(tile), tile) for tile in tiles), key=lambda priced: priced[0])


def choose_depthwise_tile(
    out_columns: int, channels: int, machine: Machine, sizes: Sizes | None = None
) -> Tile:
    """Tile of a depthwise convolution: some columns of one row.

    Raises
    ------
    ConfigError
        If ``sizes`` do not fit the layer.
    """
    lanes = machine.fit(channels)
    if sizes is not None:
        if sizes.columns > out_columns or sizes.vectors > most_vectors(channels, lanes):
            raise ConfigError(f"{sizes} does not fit {out_columns} columns of {channels} channels")
        return Tile(1, sizes.columns, sizes.vectors, lanes)
    # A cache line of channels.
    vectors = max(1, min(channels, _LINE) // lanes)
    limit = max(1, min(out_columns, _CHAINS // vectors, 4))
    sizes = range((limit + 1) // 2, limit + 1)
    columns = min(sizes, key=lambda p: (-(-out_columns // p) * (p + 0.5), -p))
    return Tile(1, columns, vectors, lanes)
