"""PrimFuncs that launch a kernel written in CUDA C++."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.tirx import cuda
from tvm.tirx.script import builder as T

from tvmquant.schedules.functions import argument, mark
from tvmquant.schedules.linear.tir import i64


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
    """

    name: str
    source: str
    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int

    def prim_func(self, arguments: Sequence[tuple[str, tuple[int, ...], str]]) -> Any:
        """PrimFunc of these arguments: name, shape and dtype, outputs last."""
        with IRBuilder() as builder:
            with T.prim_func(s_tir=True):
                buffers = [argument(*a) for a in arguments]
                mark(self.name)
                with (
                    T.launch_thread("blockIdx.x", i64(self.grid[0])),
                    T.launch_thread("blockIdx.y", i64(self.grid[1])),
                    T.launch_thread("blockIdx.z", i64(self.grid[2])),
                    T.launch_thread("threadIdx.x", i64(self.threads)),
                ):
                    shared = T.alloc_buffer(
                        (i64(max(16, self.shared_bytes)),), "uint8", scope="shared.dyn"
                    )
                    pointers = [buffer.data for buffer in buffers]
                    T.evaluate(
                        cuda.func_call(self.name, *pointers, shared.data, source_code=self.source)
                    )
        return builder.get()
