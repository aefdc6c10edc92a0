"""Softmax, layer norm, dynamic quantization on a GPU: a block computes a whole row at a time."""

from __future__ import annotations

from math import prod
from typing import Any

import tvm
from tvm import s_tir, tirx

from tvmquant.schedules.default.analysis import Nest, leaf_blocks, nest_of
from tvmquant.schedules.default.inline import inline_for_gpu

_WARP, _MOST_THREADS = 32, 256
# Terms of a row that a thread should have, if there are enough.
_EACH = 4
# Shared memory for what lies between the blocks; static, so that 48 KiB are the limit.
_SHARED_BYTES = 40 << 10
# Rows of less than a warp are better computed element by element if there are many.
_MANY_ROWS = 1 << 12


def schedule_rows(
    func: tirx.PrimFunc, target: tvm.target.Target
) -> tuple[tirx.PrimFunc | None, list[str]]:
    """One kernel of several blocks with a reduction among them, all of the same rows.

    Returns
    -------
    function, names of the rules : tuple
        ``None`` for the function if it is of another kind.
    """
    sch = s_tir.Schedule(func, debug_mask="none")
    inline_for_gpu(sch)
    nests = [nest_of(sch, block) for block in leaf_blocks(sch)]
    if len(nests) < 2 or any(nest is None or nest.store is None for nest in nests):
        return None, []
    heads = _heads(nests)
    if heads is None:
        return None, []
    pairs = list(zip(nests, heads))
    outputs = [pair for pair in pairs if not sch.get_consumers(pair[0].block)]
    earlier = [pair for pair in pairs if sch.get_consumers(pair[0].block)]
    rows = prod(axis.extent for axis in nests[-1].axes[: heads[-1]])
    length = max(nest.iterations for nest in nests) // rows
    between = sum(_bytes(nest) for nest, _ in earlier)
    # Where there is but a number a row nothing is read twice.
    if any(nest.reduction for nest, _ in outputs) or max(n.iterations for n, _ in outputs) == rows:
        return None, []
    if between > rows * _SHARED_BYTES or (length < _WARP and rows > _MANY_ROWS):
        return None, []
    threads = min(_MOST_THREADS, max(_WARP, 1 << (length // _EACH).bit_length() >> 1))
    found = []
    for nest, head in outputs:
        found.append(_fuse(sch, [axis.loop for axis in nest.axes[:head]]))
        _bind(sch, nest.block, [axis.loop for axis in nest.axes[head:]], threads)
    row = sch.merge(*found) if len(found) > 1 else found[0]
    sch.bind(row, "blockIdx.x")
    for nest, head in reversed(earlier):
        sch.set_scope(nest.block, 0, "shared")
        sch.compute_at(nest.block, row, preserve_unit_loops=True)
        _bind(sch, nest.block, list(sch.get_loops(nest.block))[1 + head :], threads)
    return sch.mod["main"], ["gpu-rows"]


def _heads(nests: list[Nest]) -> list[int] | None:
    """How many axes of each block say which row it is; ``None`` if it is not the same rows."""
    first = next((nest for nest in nests if nest.reduction), None)
    if first is None:
        return None
    rows = [axis.extent for axis in first.spatial if axis.extent > 1]
    heads = []
    for nest in nests:
        head, found = 0, []
        while head < len(nest.axes) and len(found) < len(rows):
            axis = nest.axes[head]
            found += [axis.extent] if axis.extent > 1 else []
            head += 1
        inner = nest.axes[head:]
        # One row alone: its axes have one element each.
        if not rows and inner and inner[0].extent == 1:
            head, inner = 1, inner[1:]
        mixed = any(axis.reduce != bool(nest.reduction) for axis in inner if axis.extent > 1)
        if found != rows or mixed or not head or any(a.reduce for a in nest.axes[:head]):
            return None
        heads.append(head)
    return heads


def _bytes(nest: Nest) -> int:
    buffer = nest.store.buffer
    return prod(int(dim) for dim in buffer.shape) * buffer.dtype.bits // 8


def _fuse(sch: s_tir.Schedule, loops: list[Any]) -> Any:
    return sch.fuse(*loops) if len(loops) > 1 else loops[0]


def _bind(sch: s_tir.Schedule, block: Any, loops: list[Any], threads: int) -> None:
    inner = _fuse(sch, loops) if loops else sch.add_unit_loop(block)
    serial, thread = sch.split(inner, [None, threads])
    sch.reorder(thread, serial)
    sch.bind(thread, "threadIdx.x")
