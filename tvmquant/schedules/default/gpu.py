"""Default schedules of light operators on a GPU: every loop becomes blocks and threads."""

from __future__ import annotations

from math import prod
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir import dlight

from tvmquant.errors import TvmQuantError
from tvmquant.schedules.default.analysis import (
    Nest,
    epilogue_of,
    largest_divisor,
    leaf_blocks,
    nest_of,
)
from tvmquant.schedules.default.gpu_rows import schedule_rows
from tvmquant.schedules.default.inline import inline_for_gpu
from tvmquant.schedules.default.threads import all_on_device

_WARP = 32
# Threads of a block, for tensors that have more elements than the bound.
_THREADS = ((1 << 18, 256), (1 << 15, 128), (0, 64))
# Sums that a thread computes alone: short ones, and longer ones if they are as many.
_ALONE = ((0, 16), (1 << 14, 128), (1 << 16, 1 << 62))
# Threads that share a long sum, which has so many terms.
_TOGETHER, _LONG = 256, 512
_SPATIAL = 0  # IterVar.iter_type
_REDUCERS = (tirx.Add, tirx.Mul, tirx.Max, tirx.Min)


def schedule_gpu(
    func: tirx.PrimFunc, target: tvm.target.Target, name: str = ""
) -> tuple[tirx.PrimFunc, list[str]]:
    """Bind all loops of a function in TE form to blocks and threads.

    Parameters
    ----------
    func : tirx.PrimFunc
    target : tvm.target.Target
    name : str
        For messages.

    Returns
    -------
    function, names of the rules : tuple

    Raises
    ------
    TvmQuantError
        If some of it would run on the host, which cannot read the memory of the GPU.
    """
    for attempt in _ATTEMPTS:
        try:
            made, rules = attempt(func, target)
        except (s_tir.ScheduleError, tvm.error.InternalError, TypeError, ValueError):
            continue
        if made is not None and all_on_device(made):
            return made, rules
    raise TvmQuantError(
        f"no schedule for a GPU was found for {name or 'an operator'}: compile the model for a "
        "processor"
    )


def _schedule_as_tvm(
    func: tirx.PrimFunc, target: tvm.target.Target
) -> tuple[tirx.PrimFunc, list[str]]:
    """What has loops that no rule here understands: sorting, scans."""
    with target:
        mod = dlight.ApplyDefaultSchedule(dlight.gpu.Fallback())(tvm.IRModule({"main": func}))
    return mod["main"], ["tvm"]


def _schedule_blocks(
    func: tirx.PrimFunc, target: tvm.target.Target
) -> tuple[tirx.PrimFunc | None, list[str]]:
    """A kernel for every block that is left when what is cheap was inlined."""
    sch = s_tir.Schedule(func, debug_mask="none")
    inline_for_gpu(sch)
    names = []
    for block in leaf_blocks(sch):
        loops = sch.get_loops(block)
        if any(sch.get(loop).thread_binding is not None for loop in loops):
            continue  # an epilogue that was moved into its producer
        if not loops:
            names.append("own")  # sorting: TVM wrote it for threads
            continue
        nest = nest_of(sch, block)
        if nest is None and any(
            int(axis.iter_type) != _SPATIAL for axis in sch.get(block).iter_vars
        ):
            return None, []
        # Loops in a block whose own axes are independent stay in its threads.
        if nest is None or not nest.reduction:
            bind_threads(sch, loops)
            names.append("gpu")
        else:
            names.append(_reduce(nest))
    return sch.mod["main"], names


def bind_threads(sch: s_tir.Schedule, loops: list[Any]) -> Any:
    """An element of the loops a thread; returns the thread loop."""
    fused = sch.fuse(*loops) if len(loops) > 1 else loops[0]
    elements = int(sch.get(fused).extent)
    threads = next(threads for least, threads in _THREADS if elements > least or not least)
    # Moving a single number into a loop loses the condition that leaves out the other threads.
    block, thread = sch.split(fused, [None, min(threads, elements)])
    sch.bind(block, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    return thread


def _reduce(nest: Nest) -> str:
    outputs = prod(axis.extent for axis in nest.spatial)
    length = prod(axis.extent for axis in nest.reduction)
    shared = nest.store is not None and isinstance(nest.store.value, _REDUCERS)
    if not shared or any(outputs >= many and length <= short for many, short in _ALONE):
        return _reduce_alone(nest)
    return _reduce_together(nest, length)


def _reduce_alone(nest: Nest) -> str:
    """A thread an output, summed in a register where the block has one output."""
    sch, block = nest.sch, nest.block
    epilogue = epilogue_of(nest)
    local = epilogue
    if epilogue is not None:
        sch.set_scope(block, 0, "local")
    elif nest.store is not None:
        local = sch.cache_write(block, 0, "local")
    spatial = [axis.loop for axis in nest.spatial] or [sch.add_unit_loop(block)]
    reduced = [axis.loop for axis in nest.reduction]
    sch.reorder(*spatial, *reduced)
    thread = bind_threads(sch, spatial)
    if local is not None:
        sch.reverse_compute_at(local, thread, preserve_unit_loops=True)
    sch.decompose_reduction(block, reduced[0])
    return "gpu-reduction"


def _reduce_together(nest: Nest, length: int) -> str:
    """Threads share a sum: its terms if they are neighbours, else every so many of them."""
    sch, block = nest.sch, nest.block
    epilogue = epilogue_of(nest)
    along = _contiguous(nest)
    beside = along is not None and not along.reduce
    spatial = [axis.loop for axis in nest.spatial if not beside or axis is not along]
    reduced = [axis.loop for axis in nest.reduction]
    if beside:
        # Threads meet: none of them may be left out, so blocks have all their outputs.
        width = largest_divisor(along.extent, _WARP)
        outer, inner = sch.split(along.loop, [None, width])
        spatial, kept, tag = [*spatial, outer], [inner], "threadIdx.y"
        threads = min(_TOGETHER // width, _power_of_two(length // 2))
    else:
        spatial, kept, tag = spatial or [sch.add_unit_loop(block)], [], "threadIdx.x"
        threads = _TOGETHER if length >= _LONG else _WARP
    sch.reorder(*spatial, *kept, *reduced)
    outputs = sch.fuse(*spatial) if len(spatial) > 1 else spatial[0]
    whole = sch.fuse(*reduced) if len(reduced) > 1 else reduced[0]
    serial, thread = sch.split(whole, [None, threads])
    sch.reorder(outputs, *kept, thread, serial)
    sch.bind(outputs, "blockIdx.x")
    sch.bind(thread, tag)
    if beside:
        sch.bind(inner, "threadIdx.x")
    if epilogue is not None:
        sch.set_scope(block, 0, "shared")
        sch.reverse_compute_at(epilogue, outputs, preserve_unit_loops=True)
        rest = list(sch.get_loops(epilogue))[1:] or [sch.add_unit_loop(epilogue)]
        _, thread = sch.split(sch.fuse(*rest), [None, width if beside else threads])
        sch.bind(thread, "threadIdx.x")
    return "gpu-shared-reduction"


def _contiguous(nest: Nest) -> Any:
    """Longest axis along which the largest input is contiguous."""
    largest = max(nest.loads, key=lambda load: prod(int(dim) for dim in load.source.shape))
    found = [axis for axis in nest.axes if axis.extent > 1 and nest.stride(largest, axis) == 1]
    return max(found, key=lambda axis: axis.extent, default=None)


def _power_of_two(value: int) -> int:
    return 1 << max(0, value.bit_length() - 1)


_ATTEMPTS = (schedule_rows, _schedule_blocks, _schedule_as_tvm)
