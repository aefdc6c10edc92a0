"""Tile sizes of the weight-only kernels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tvmquant.schedules.floating.tiling import Machine, block_count
from tvmquant.schedules.weight_only.dots import ByteDot

# Multiply-adds in flight that hide their latency.
_CHAINS = 8
_MAX_VECTORS = 8
_MAX_ROWS = 14
# The tuner tries what costs up to this many times the best by the model.
_WORTH = 1.5
# From this many rows on it is cheaper to scale the weights than the sums of each group.
_SCALE_WEIGHTS = 3


@dataclass(frozen=True, order=True)
class Sizes:
    """A tile: ``rows`` of activations by ``vectors`` of output channels."""

    rows: int
    vectors: int


@dataclass(frozen=True)
class Plan:
    """A tile and how its sums are formed.

    Attributes
    ----------
    rows, vectors, lanes : int
        Rows of activations, vectors of output channels, float32 lanes of a vector.
    chains : int
        Partial sums of every accumulator, added up at the end of a group.
    scaled_weights : bool
        Weights are multiplied by their scale before the products, not sums after them.
    """

    rows: int
    vectors: int
    lanes: int
    chains: int
    scaled_weights: bool

    @property
    def width(self) -> int:
        """Output channels of a tile."""
        return self.vectors * self.lanes


def make_plan(sizes: Sizes, lanes: int) -> Plan:
    """Plan of a tile."""
    tile = sizes.rows * sizes.vectors
    scaled = sizes.rows >= _SCALE_WEIGHTS
    chains = 1 if scaled else max(1, _CHAINS // tile)
    return Plan(sizes.rows, sizes.vectors, lanes, chains, scaled)


def worth_trying(priced: Iterable[tuple[float, Sizes]]) -> dict[Sizes, float]:
    """Tiles that cost not much more than the best, the cheapest first."""
    ordered = sorted(priced)
    return {sizes: cost for cost, sizes in ordered if cost < _WORTH * ordered[0][0]}


def priced_sizes(
    rows: int, channels: int, machine: Machine, per_weight: float
) -> Iterator[tuple[float, Sizes]]:
    """``(cost, sizes)`` of every tile that fits the registers.

    Parameters
    ----------
    rows : int
        Rows of activations.
    channels : int
        Output channels.
    machine : Machine
    per_weight : float
        Instructions that make a vector of float weights.
    """
    lanes = machine.fit(channels)
    most = min(-(-channels // lanes), _MAX_VECTORS)
    for height in sorted({-(-rows // n) for n in range(1, rows + 1)}):
        for vectors in range(1, most + 1):
            sizes = Sizes(height, vectors)
            if height > _MAX_ROWS or _registers(sizes) > machine.registers:
                continue
            plan = make_plan(sizes, lanes)
            tiles = -(-rows // height) * block_count(channels, plan.width)
            products = height * vectors
            # Two multiply-adds a cycle, four instructions in all.
            decode = vectors * (per_weight + (1 if plan.scaled_weights else 0))
            step = max(products / 2, _CHAINS / 2 / plan.chains, (products + height + decode) / 4)
            yield tiles * (step + 0.1), sizes


def _registers(sizes: Sizes) -> int:
    """Vectors that a tile keeps: sums, words, a weight, a broadcast activation, the table."""
    plan = make_plan(sizes, 1)
    tile = sizes.rows * sizes.vectors
    sums = tile if plan.scaled_weights else tile * (plan.chains + 1)
    return sums + sizes.vectors + 3 + (sizes.vectors if plan.scaled_weights else 0)


def priced_integer_sizes(
    rows: int, channels: int, dot: ByteDot, digits: int
) -> Iterator[tuple[float, Sizes]]:
    """As :func:`priced_sizes`, for byte dot products of ``digits`` digits an activation."""
    most = min(-(-channels // dot.lanes), _MAX_VECTORS)
    # Sums that wait for int16 sums need registers, too; those are quick to add.
    kept, chains = (2 * digits, 0) if dot.flush else (digits, _CHAINS)
    for height in sorted({-(-rows // n) for n in range(1, rows + 1)}):
        for vectors in range(1, most + 1):
            tile = height * vectors
            if tile * digits + vectors + 1 > dot.registers:
                continue
            tiles = -(-rows // height) * block_count(channels, vectors * dot.lanes)
            dots = tile * digits * dot.instructions
            # Per step of four inputs; a group ends after some eight steps.
            others = height * digits + 1.5 * vectors + tile
            step = max(dots / 2, chains / 2, (dots + others) / 4)
            # Sums that do not fit the registers wait in memory while a group is summed.
            spilled = max(0, tile * (kept + 1) + vectors + 1 - dot.registers)
            step += 0.15 * spilled + 0.4 * (height - 1)
            yield tiles * (step + 0.1), Sizes(height, vectors)
