"""Copies and buffers whose last dimension is the one that vectors run along."""

from __future__ import annotations

from math import prod
from typing import Any

from tvm import s_tir

from tvmquant.schedules.default.analysis import Axis, Nest
from tvmquant.schedules.default.parallel import parallelize


def packable(access: Any, axis: Axis) -> bool:
    """Whether one index of ``access`` is the axis itself, so that it can become the last."""
    return any(index.same_as(axis.var) for index in access.indices)


def pack_operand(nest: Nest, load: Any, axis: Axis, cores: int) -> None:
    """Read ``load`` from a copy in which neighbours along ``axis`` are neighbours in memory."""
    sch = nest.sch
    reads = [region.source for region in nest.stmt.reads]
    position = next(i for i, buffer in enumerate(reads) if buffer.same_as(load.source))
    copy = sch.cache_read(nest.block, position, "global")
    move_last(sch, copy, load.indices, [axis])
    elements = prod(int(dim) for dim in load.source.shape)
    parallelize(sch, list(sch.get_loops(copy))[:1], 0.3 * elements, cores)


def move_last(sch: s_tir.Schedule, block: Any, indices: Any, axes: list[Axis]) -> None:
    """Move the dimensions that ``axes`` index to the end of the buffer ``block`` writes."""
    dims = [next(d for d, i in enumerate(indices) if i.same_as(axis.var)) for axis in axes]

    def order(*index: Any) -> list[Any]:
        return [*(i for d, i in enumerate(index) if d not in dims), *(index[d] for d in dims)]

    sch.transform_layout(block, ("write", 0), order)
