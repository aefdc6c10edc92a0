"""Reductions: sums, means, extrema, pooling windows."""

from __future__ import annotations

from math import prod
from typing import Any

from tvm import s_tir

from tvmquant.schedules.default.analysis import Axis, Nest, largest_divisor
from tvmquant.schedules.default.layout import pack_operand, packable
from tvmquant.schedules.default.parallel import parallelize

_LANES = 64
# Up to this many values are added up one by one.
_SHORT = 16


def schedule_reduction(nest: Nest, cores: int) -> str | None:
    """Schedule one reduction block; returns the name of the rule."""
    if not nest.reduction or not nest.loads:
        return None
    along = _contiguous_axis(nest)
    if nest.store is not None and along is not None and _is_strided_window(nest, along):
        # LLVM unrolls the window and loads pairs or quads of pixels by itself.
        parallelize(nest.sch, [axis.loop for axis in nest.spatial[:-1]], nest.nanoseconds, cores)
        return "window"
    if along is not None and along.reduce and (nest.store is not None or _is_float(nest)):
        return _inner(nest, along, cores)
    if nest.store is None or along is None:
        parallelize(nest.sch, [axis.loop for axis in nest.spatial], nest.nanoseconds, cores)
        return "reduction"
    return _outer(nest, along, cores)


def _contiguous_axis(nest: Nest) -> Axis | None:
    """Longest axis along which the largest input is read contiguously."""
    largest = max(nest.loads, key=_elements)
    found = [axis for axis in nest.axes if axis.extent > 1 and nest.stride(largest, axis) == 1]
    return max(found, key=lambda axis: axis.extent, default=None)


def _elements(load: Any) -> int:
    return prod(int(dim) for dim in load.source.shape)


def _is_strided_window(nest: Nest, along: Axis) -> bool:
    """Whether ``along`` is the inside of a short window that moves in steps."""
    return (
        along.reduce
        and along.extent < _SHORT
        and any(
            axis.extent > along.extent and nest.stride(nest.store, axis) == 1
            for axis in nest.spatial
            if (nest.stride(max(nest.loads, key=_elements), axis) or 0) in range(2, _SHORT)
        )
    )


def _inner(nest: Nest, along: Axis, cores: int) -> str:
    """Reduce along the contiguous axis: vector partial results, then across the lanes."""
    sch = nest.sch
    others = [axis for axis in nest.reduction if axis is not along]
    sch.reorder(*(axis.loop for axis in [*nest.spatial, *others, along]))
    outer = [axis.loop for axis in nest.spatial]
    lanes = largest_divisor(along.extent, _LANES // 2)
    long = prod(axis.extent for axis in nest.reduction) > _SHORT
    if lanes >= 4 and long and (_is_float(nest) or not outer):
        # LLVM may not reorder float additions, and keeps a scalar result in memory.
        chunk, lane = sch.split(along.loop, [None, lanes])
        sch.reorder(lane, *(axis.loop for axis in others), chunk)
        partial = sch.rfactor(lane, len(nest.stmt.writes[0].source.shape))
        rows, lane, rest = _rfactor_loops(sch, partial, len(outer))
        sch.reorder(*rows, *rest, lane)
        sch.vectorize(lane)
        parallelize(sch, rows, nest.nanoseconds, cores)
        init = sch.decompose_reduction(partial, rest[0])
        sch.vectorize(sch.get_loops(init)[-1])
        return "reduction-lanes"
    parallelize(sch, outer, nest.nanoseconds, cores)
    return "reduction-inner"


def _rfactor_loops(sch: s_tir.Schedule, block: Any, rank: int) -> tuple[list, Any, list]:
    loops = list(sch.get_loops(block))
    return loops[:rank], loops[rank], loops[rank + 1 :]


def _is_float(nest: Nest) -> bool:
    return all("float" in str(region.source.dtype) for region in nest.stmt.writes)


def _outer(nest: Nest, along: Axis, cores: int) -> str:
    """Reduce over outer axes: a vector of neighbouring outputs per pass over the inputs."""
    sch = nest.sch
    others = [axis.loop for axis in nest.spatial if axis is not along]
    reduced = [axis.loop for axis in nest.reduction]
    lanes = largest_divisor(along.extent, _LANES)
    for load in nest.loads:
        if nest.stride(load, along) not in (None, 0, 1) and packable(load, along):
            pack_operand(nest, load, along, cores)
    if lanes >= 16 or lanes == along.extent:
        block, lane = sch.split(along.loop, [None, lanes])
        outer = [*others, block]
        sch.reorder(*outer, *reduced, lane)
        sch.vectorize(lane)
    else:
        outer = others
        sch.reorder(*outer, *reduced, along.loop)
    parallelize(sch, outer, nest.nanoseconds, cores)
    init = sch.decompose_reduction(nest.block, reduced[0])
    if lanes >= 16 or lanes == along.extent:
        sch.vectorize(sch.get_loops(init)[-1])
    return "reduction-outer"
