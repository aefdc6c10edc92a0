"""PrimFuncs that launch kernels written in CUDA C++."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.tirx import cuda
from tvm.tirx.script import builder as T

from tvmquant.build_cuda import EARLY
from tvmquant.schedules.functions import argument, mark
from tvmquant.schedules.linear.tir import i64

# TVM's mark for ``__launch_bounds__``.
_RESIDENT = "tirx.launch_bounds_min_blocks_per_sm"

# Arguments or scratch memory: name, shape and dtype of each.
Arguments = Sequence[tuple[str, tuple[int, ...], str]]


@dataclass(frozen=True)
class Launch:
    """How a kernel is launched.

    Attributes
    ----------
    name : str
        Of the device function ``(pointers..., uint8_t *shared)``.
    source : str
        CUDA text that defines it.
    grid : tuple of int
        Blocks along x, y and z.
    threads : int
    shared_bytes : int
    takes : tuple of str
        Arguments and scratch memory that it is given; by default all arguments.
    early : bool
        Whether it may start while the launch before still runs, on sm_90 and later. All of its
        threads then wait for that one (``launch_wait`` in :file:`ptx.cuh`) before they write
        anything or read what is no constant, and that with ``load_fresh`` or ``copy_async``.
    resident : int
        Blocks that must fit on a multiprocessor together: limits the registers.
    """

    name: str
    source: str
    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int
    takes: tuple[str, ...] = ()
    early: bool = False
    resident: int = 1

    def prim_func(self, arguments: Arguments) -> Any:
        """PrimFunc of these arguments: name, shape and dtype, outputs last."""
        return program(self.name, (self,), arguments)

    def emit(self, pointers: Sequence[Any]) -> None:
        """Add the launch to the PrimFunc that is being built."""
        with (
            T.launch_thread("blockIdx.x", i64(self.grid[0])),
            T.launch_thread("blockIdx.y", i64(self.grid[1])),
            T.launch_thread("blockIdx.z", i64(self.grid[2])),
            T.launch_thread("threadIdx.x", i64(self.threads)),
            ExitStack() as marks,
        ):
            if self.early:
                marks.enter_context(T.attr(i64(0), EARLY, 1))
            if self.resident > 1:
                marks.enter_context(T.attr(i64(0), _RESIDENT, self.resident))
            shared = T.alloc_buffer((i64(max(16, self.shared_bytes)),), "uint8", scope="shared.dyn")
            call = cuda.func_call(self.name, *pointers, shared.data, source_code=self.source)
            T.evaluate(call)


def program(
    name: str, launches: Sequence[Launch], arguments: Arguments, scratch: Arguments = ()
) -> Any:
    """PrimFunc of several launches, which run one after the other.

    Parameters
    ----------
    name : str
    launches : sequence of Launch
    arguments : sequence of (name, shape, dtype)
        Outputs last.
    scratch : sequence of (name, shape, dtype)
        Memory that only the launches see. TVM takes it from the pool of the device before the
        first launch and gives it back behind the last one. Launches still under way are no
        danger: who gets it next uses it in the same stream, so later. It is aligned to 64 bytes
        at least and holds anything.
    """
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            buffers = {key: argument(key, *rest) for key, *rest in arguments}
            mark(name)
            for key, shape, dtype in scratch:
                buffers[key] = T.alloc_buffer(tuple(map(i64, shape)), dtype, scope="global")
            for launch in launches:
                taken = launch.takes or [key for key, *_ in arguments]
                launch.emit([buffers[key].data for key in taken])
    return builder.get()
