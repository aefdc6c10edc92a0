"""Products summed over an axis: matmul of activations, convolutions left in TE form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import s_tir, tirx

from tvmquant.schedules.default.analysis import Axis, Nest, largest_divisor, nest_of
from tvmquant.schedules.default.layout import move_last, pack_operand, packable
from tvmquant.schedules.default.parallel import parallelize

_WORTH = 1 << 13  # multiply-accumulates below which the plain nest is as good


@dataclass(frozen=True)
class Vectors:
    """Vector registers of a processor: 32-bit lanes, and registers for accumulators."""

    lanes: int
    accumulators: int


@dataclass(frozen=True)
class _Roles:
    """Axes of a contraction: ``lane`` runs through vectors of ``operand``, ``row`` does not.

    The extents are those over which the other operand stands still: all of the axis, or one
    group of a grouped convolution.
    """

    lane: Axis
    lane_extent: int
    row: Axis | None
    row_extent: int
    operand: Any
    packed: bool


def is_contraction(nest: Nest) -> bool:
    """Whether the block sums products of two inputs that are each reused."""
    if not nest.reduction or nest.store is None or len(nest.loads) != 2:
        return False
    value = nest.store.value
    if not isinstance(value, tirx.Add) or nest.iterations < _WORTH:
        return False
    return all(_exclusive(nest, load) for load in nest.loads)


def _exclusive(nest: Nest, load: Any) -> list[tuple[Axis, int]]:
    """Spatial axes that move ``load`` and not the other operand, and for how many steps."""
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


def _roles(nest: Nest, vectors: Vectors) -> _Roles | None:
    """Choose the vector axis: contiguous in an input and in the output if there is one."""
    best: tuple[float, _Roles] | None = None
    for load in nest.loads:
        other = next(candidate for candidate in nest.loads if candidate is not load)
        rows = _exclusive(nest, other)
        row, row_extent = max(rows, key=lambda r: _row_rank(nest, *r), default=(None, 1))
        for axis, extent in _exclusive(nest, load):
            tile = _lane_tile(extent, vectors)
            if tile is None:
                continue
            packed = nest.stride(load, axis) != 1
            if packed and not packable(load, axis):
                continue
            fill = tile / (-(-tile // vectors.lanes) * vectors.lanes)
            # Vectors that are no whole registers cost more than a packed copy.
            score = fill - 0.2 * packed - 0.4 * (tile % vectors.lanes != 0)
            score -= 0.1 * (nest.stride(nest.store, axis) != 1)
            if best is None or score > best[0]:
                best = (score, _Roles(axis, extent, row, row_extent, load, packed))
    return best[1] if best else None


def _row_rank(nest: Nest, axis: Axis, extent: int) -> tuple:
    """Long enough to fill a tile first, then neighbours in the output, then longest."""
    return min(extent, 6), nest.stride(nest.store, axis) == 1, extent


def _lane_tile(extent: int, vectors: Vectors) -> int | None:
    """Outputs computed in one go along the vector axis."""
    widest = 4 * vectors.lanes
    for tile in range(widest, 0, -vectors.lanes):
        if extent % tile == 0:
            return tile
    if extent <= widest:
        return extent
    tile = largest_divisor(extent, widest)
    return tile if tile >= vectors.lanes // 2 else None


def schedule_contraction(nest: Nest, cores: int, vectors: Vectors) -> str | None:
    """Schedule a contraction with a tile of accumulators in registers.

    Returns
    -------
    str or None
        Name of the rule; ``None`` if the block is no contraction.
    """
    if not is_contraction(nest):
        return None
    roles = _roles(nest, vectors)
    if roles is None:
        return _streamed(nest, cores)
    sch, block = nest.sch, nest.block
    if roles.packed:
        pack_operand(nest, roles.operand, roles.lane, cores)
    epilogue = _epilogue(nest)
    if epilogue is None:
        epilogue = sch.cache_write(block, 0, "local")
    else:
        sch.set_scope(block, 0, "local")
    lane_tile = _lane_tile(roles.lane_extent, vectors)
    room = vectors.accumulators // -(-lane_tile // vectors.lanes)
    row_tile = _row_tile(roles, max(room, 1))

    lane_out, lane_in = sch.split(roles.lane.loop, [None, lane_tile])
    inner, outer_rows = [lane_in], []
    if roles.row:
        row_out, row_in = sch.split(roles.row.loop, [None, row_tile])
        inner, outer_rows = [row_in, lane_in], [row_out]
    taken = (roles.lane, roles.row)
    others = [axis.loop for axis in nest.spatial if axis not in taken]
    reduced = [axis.loop for axis in nest.reduction]
    outer = [*others, lane_out, *outer_rows]
    sch.reorder(*outer, *reduced, *inner)
    sch.reverse_compute_at(epilogue, outer[-1], preserve_unit_loops=True)
    if nest.stride(nest.store, roles.lane) != 1:
        _lanes_last(sch, block, nest, roles)
    _registers(sch, block, len(inner))
    # Once the reduction is decomposed no loop around it can be changed any more.
    parallelize(sch, outer, nest.nanoseconds, cores)
    init = sch.decompose_reduction(block, reduced[0])
    _registers(sch, init, len(inner))
    return "contraction"


def _row_tile(roles: _Roles, room: int) -> int:
    """Rows of a tile; the last tile may be short, unless a group ends inside it."""
    if roles.row is None:
        return 1
    if roles.row_extent != roles.row.extent:
        return largest_divisor(roles.row_extent, room)
    tiles = -(-roles.row_extent // room)
    return -(-roles.row_extent // tiles)


def _registers(sch: s_tir.Schedule, block: Any, depth: int) -> None:
    """Vectorize the last loop and unroll the one around it: the tile then stays in registers."""
    loops = sch.get_loops(block)
    sch.vectorize(loops[-1])
    if depth > 1:
        sch.unroll(loops[-2])


def _lanes_last(sch: s_tir.Schedule, block: Any, nest: Nest, roles: _Roles) -> None:
    """Lay the tile of accumulators out as it is computed, whatever the output looks like."""
    axes = [roles.row, roles.lane] if roles.row else [roles.lane]
    move_last(sch, block, nest.store.indices, axes)


def _epilogue(nest: Nest) -> Any | None:
    """The elementwise block that alone reads the sums, element by element."""
    consumers = nest.sch.get_consumers(nest.block)
    if len(consumers) != 1:
        return None
    consumer = nest_of(nest.sch, consumers[0])
    if consumer is None or consumer.reduction or consumer.store is None:
        return None
    shape = [int(dim) for dim in nest.store.buffer.shape]
    same = [axis.extent for axis in consumer.axes] == shape
    return consumers[0] if same else None


def _streamed(nest: Nest, cores: int) -> str:
    """No axis makes good vectors: stream whole rows of the output past each input element."""
    sch = nest.sch
    last = nest.spatial[-1]
    others = [axis.loop for axis in nest.spatial[:-1]]
    reduced = [axis.loop for axis in nest.reduction]
    sch.reorder(*others, *reduced, last.loop)
    parallelize(sch, others, nest.nanoseconds, cores)
    sch.decompose_reduction(nest.block, reduced[0])
    return "contraction-streamed"
