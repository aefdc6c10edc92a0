"""When threads pay."""

from __future__ import annotations

from typing import Any

from tvm import s_tir

# Starting the threads takes about 10 µs on a busy machine.
_WORTH = 40_000.0
# Parallel iterations a core, so that the shares come out even.
_CHUNKS = 4


def parallelize(sch: s_tir.Schedule, loops: list[Any], nanoseconds: float, cores: int) -> None:
    """Run the outermost of ``loops`` in parallel if the work pays for it.

    Only as many loops are fused as are needed to keep the cores busy: the rest keeps its plain
    indices, which LLVM needs to vectorize.

    Parameters
    ----------
    sch : s_tir.Schedule
    loops : list of LoopRV
        Adjacent spatial loops, outermost first.
    nanoseconds : float
        Rough time of everything below on one core.
    cores : int
        Cores of the device.
    """
    if cores < 2 or nanoseconds < _WORTH:
        return
    extent, taken = 1, []
    for loop in loops:
        if extent >= _CHUNKS * cores:
            break
        taken.append(loop)
        extent *= int(sch.get(loop).extent)
    if extent > 1:
        sch.parallel(sch.fuse(*taken) if len(taken) > 1 else taken[0])
