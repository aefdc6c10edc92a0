"""Products summed over an axis: matmul of activations, convolutions left in TE form."""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx

from tvmquant.schedules.default.analysis import Nest, epilogue_of
from tvmquant.schedules.default.layout import move_last, pack_operand, packable
from tvmquant.schedules.default.parallel import parallelize
from tvmquant.schedules.default.tiles import (
    Tile,
    Vectors,
    choose_tile,
    dot_nanoseconds,
    exclusive_axes,
    streaming_nanoseconds,
    strided_loads,
)

_WORTH = 1 << 13  # multiply-accumulates below which the plain nest is as good


def is_contraction(nest: Nest) -> bool:
    """Whether the block sums products of two inputs that are each reused."""
    if not nest.reduction or nest.store is None or len(nest.loads) != 2:
        return False
    if not isinstance(nest.store.value, tirx.Add) or nest.iterations < _WORTH:
        return False
    return all(exclusive_axes(nest, load) for load in nest.loads)


def schedule_contraction(nest: Nest, cores: int, vectors: Vectors) -> str | None:
    """Schedule a contraction, with a tile of accumulators in registers where one fits.

    Returns
    -------
    str or None
        Name of the rule; ``None`` if the block is no contraction, or is better off as plain
        dot products, which the rule for reductions makes.
    """
    if not is_contraction(nest):
        return None
    tile = choose_tile(nest, vectors)
    streaming = streaming_nanoseconds(nest, vectors)
    dot = dot_nanoseconds(nest, vectors)
    if dot < min(streaming, tile.nanoseconds if tile else streaming):
        return None
    if tile is None or streaming < tile.nanoseconds:
        return _streamed(nest, streaming, cores)
    return _tiled(nest, tile, cores)


def _tiled(nest: Nest, tile: Tile, cores: int) -> str:
    sch, block = nest.sch, nest.block
    if tile.packed:
        pack_operand(nest, tile.operand, tile.lane, cores)
    epilogue = epilogue_of(nest)
    if epilogue is None:
        epilogue = sch.cache_write(block, 0, "local")
    else:
        sch.set_scope(block, 0, "local")
    lane_out, *inner = sch.split(tile.lane.loop, [None, tile.count, tile.width])
    outer = [lane_out]
    if tile.row:
        row_out, row_in = sch.split(tile.row.loop, [None, tile.rows])
        inner, outer = [row_in, *inner], [lane_out, row_out]
    others = [axis.loop for axis in nest.spatial if axis not in (tile.lane, tile.row)]
    reduced = [axis.loop for axis in nest.reduction]
    outer = [*others, *outer]
    sch.reorder(*outer, *reduced, *inner)
    sch.reverse_compute_at(epilogue, outer[-1], preserve_unit_loops=True)
    if nest.stride(nest.store, tile.lane) != 1:
        # The tile is laid out as it is computed, whatever the output looks like.
        axes = [tile.row, tile.lane] if tile.row else [tile.lane]
        move_last(sch, block, nest.store.indices, axes)
    _keep_in_registers(sch, block, len(inner))
    # Once the reduction is decomposed no loop around it can be changed any more.
    parallelize(sch, outer, tile.nanoseconds, cores)
    init = sch.decompose_reduction(block, reduced[0])
    _keep_in_registers(sch, init, len(inner))
    return "contraction"


def _keep_in_registers(sch: s_tir.Schedule, block: Any, depth: int) -> None:
    """Vectorize the last loop and unroll the ones around it: LLVM then needs no memory."""
    *unrolled, lanes = sch.get_loops(block)[-depth:]
    sch.vectorize(lanes)
    for loop in unrolled:
        sch.unroll(loop)


def _streamed(nest: Nest, nanoseconds: float, cores: int) -> str:
    """Whole rows of the output pass by each input element; LLVM vectorizes any length."""
    sch = nest.sch
    *others, last = nest.spatial
    for load in strided_loads(nest, last):
        if packable(load, last):
            pack_operand(nest, load, last, cores)
    reduced = [axis.loop for axis in nest.reduction]
    sch.reorder(*(axis.loop for axis in others), *reduced, last.loop)
    parallelize(sch, [axis.loop for axis in others], nanoseconds, cores)
    sch.decompose_reduction(nest.block, reduced[0])
    return "contraction-streamed"
