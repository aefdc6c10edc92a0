"""Which axes of a contraction become vectors and rows of its register tile, and how many."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import tvm_ffi
from tvm import tirx

from tvmquant.schedules.default.analysis import Axis, Nest, largest_divisor
from tvmquant.schedules.default.layout import packable

# Nanoseconds an element of a copy that changes the order of axes.
_COPY = 0.3
# Cycles between two dependent multiply-adds times the number of units.
_IN_FLIGHT = 8
_CYCLE = 0.25
_MOST_ROWS = 14


@dataclass(frozen=True)
class Vectors:
    """Vector registers of a processor: 32-bit lanes, and registers for accumulators."""

    lanes: int
    accumulators: int


@dataclass(frozen=True)
class Tile:
    """Accumulators kept in registers: ``rows`` times ``count`` vectors of ``width`` lanes.

    Attributes
    ----------
    lane : Axis
        The axis that vectors run along.
    row : Axis or None
        An axis of the other operand.
    operand : TensorLoad
        The input that is loaded as vectors; the other one is broadcast.
    packed : bool
        Whether ``operand`` must be copied first because ``lane`` is not contiguous in it.
    width, count, rows : int
    nanoseconds : float
        Estimated time of the whole contraction.
    """

    lane: Axis
    row: Axis | None
    operand: Any
    packed: bool
    width: int
    count: int
    rows: int
    nanoseconds: float


def exclusive_axes(nest: Nest, load: Any) -> list[tuple[Axis, int]]:
    """Spatial axes that move ``load`` and not the other operand, and for how many steps.

    The steps are the whole axis, or one group of a grouped convolution.
    """
    other = next(candidate for candidate in nest.loads if candidate is not load)
    found = []
    for axis in nest.spatial:
        still = axis.extent if nest.stride(other, axis) == 0 else _group(nest, other, axis)
        if still > 1 and nest.stride(load, axis) not in (0, None):
            found.append((axis, still))
    return found


def _group(nest: Nest, access: Any, axis: Axis) -> int:
    """Steps of ``axis`` for which ``access`` stands still: it reads by ``axis // group``."""
    if nest.stride(access, axis) is not None:
        return 1
    groups: list[int] = []

    def visit(node: tirx.FloorDiv) -> None:
        if node.a.same_as(axis.var) and isinstance(node.b, tirx.IntImm):
            groups.append(int(node.b))

    for index in access.indices:
        tvm_ffi.structural_walk(index, (tirx.FloorDiv, visit))
    return groups[0] if len(groups) == 1 and axis.extent % groups[0] == 0 else 1


def choose_tile(nest: Nest, vectors: Vectors) -> Tile | None:
    """Fastest tile by a simple model of the processor; ``None`` if no axis makes vectors."""
    tiles = []
    for load in nest.loads:
        other = next(candidate for candidate in nest.loads if candidate is not load)
        rows = [*exclusive_axes(nest, other), (None, 1)]
        for lane, extent in exclusive_axes(nest, load):
            if nest.stride(load, lane) == 1 or packable(load, lane):
                tiles += [_tile(nest, load, lane, extent, row, vectors) for row in rows]
    return min((tile for tile in tiles if tile), key=lambda t: t.nanoseconds, default=None)


def _tile(
    nest: Nest, load: Any, lane: Axis, extent: int, row: tuple[Axis | None, int], vectors: Vectors
) -> Tile | None:
    """Best tile of one pair of axes."""
    width = next((w for w in (16, 8, 4) if w <= vectors.lanes and extent % w == 0), None)
    if width is None:
        return None
    packed = nest.stride(load, lane) != 1
    row_axis, steps = row
    whole = row_axis is None or steps == row_axis.extent
    extra = _COPY * _elements(load) if packed else 0.0
    outputs = prod(axis.extent for axis in nest.spatial)
    if nest.stride(nest.store, lane) != 1:
        # The tile is turned on its way out; neighbours in a row make that cheaper.
        near = row_axis is not None and nest.stride(nest.store, row_axis) == 1
        extra += (0.5 if near else 1.0) * _COPY * outputs
    best = None
    for count in (4, 3, 2, 1):
        if (extent // width) % count:
            continue
        for rows in range(1, min(_MOST_ROWS, steps, vectors.accumulators // count) + 1):
            # A short last tile is guarded by conditions, a group must not end inside one.
            if steps % rows and not whole:
                continue
            useful = steps / (-(-steps // rows) * rows) * (1.0 if steps % rows == 0 else 0.9)
            cycles = max(count * rows, _IN_FLIGHT) / 2 + (count + rows) / 4
            cost = cycles / (count * rows * width * useful)
            if best is None or cost < best[0]:
                best = (cost, count, rows)
    cost, count, rows = best
    nanoseconds = nest.iterations * cost * _CYCLE + extra
    return Tile(lane, row_axis, load, packed, width, count, rows, nanoseconds)


def streaming_nanoseconds(nest: Nest, vectors: Vectors) -> float:
    """Time of passing whole rows of the output by each input element, vectorized by LLVM."""
    last = nest.spatial[-1]
    copies = strided_loads(nest, last)
    if nest.stride(nest.store, last) != 1 or not all(packable(load, last) for load in copies):
        return 0.5 * nest.iterations
    chunk = min(last.extent, 2 * vectors.lanes)
    return nest.iterations * 1.2 / chunk + _COPY * sum(map(_elements, copies))


def strided_loads(nest: Nest, axis: Axis) -> list[Any]:
    """Inputs that neither stand still along ``axis`` nor are contiguous."""
    return [load for load in nest.loads if nest.stride(load, axis) not in (0, 1)]


def dot_nanoseconds(nest: Nest, vectors: Vectors) -> float:
    """Time of dot products along a reduction axis contiguous in both inputs."""
    outputs = prod(axis.extent for axis in nest.spatial)
    for axis in nest.reduction:
        if all(nest.stride(load, axis) == 1 for load in nest.loads):
            lanes = largest_divisor(axis.extent, 2 * vectors.lanes)
            return nest.iterations * 0.6 / lanes + 6.0 * outputs
    return 0.5 * nest.iterations


def _elements(load: Any) -> int:
    return prod(int(dim) for dim in load.source.shape)
