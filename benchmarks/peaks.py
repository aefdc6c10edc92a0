"""The arithmetic peak of this processor, measured: register loops compiled by TVM.

Every loop multiplies a few vectors, read from the first-level cache each turn so that nothing is
loop-invariant, into accumulators that stay in registers, as the inside of a kernel does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

# Rows and columns of accumulators: enough to hide the latency, few enough for the registers.
# What a processor likes best is tried out.
TILES = ((3, 3), (3, 4), (4, 4), (4, 6))
TURNS = 300_000
TRIES = 12
# Operand vectors cycle through this many places.
PLACES = 8
OPERANDS = PLACES + max(map(max, TILES))


@dataclass(frozen=True)
class Instruction:
    """One way to multiply and accumulate a vector.

    Attributes
    ----------
    name : str
    feature : str
        LLVM feature the processor must have.
    bits : int
        Width of the vectors.
    dtypes : tuple of str
        Types of the two operands and of the accumulator.
    macs : int
        Multiply-accumulates a vector.
    """

    name: str
    feature: str
    bits: int
    dtypes: tuple[str, str, str]
    macs: int


INSTRUCTIONS = (
    Instruction("vpdpbusd zmm", "avx512vnni", 512, ("uint8", "int8", "int32"), 64),
    Instruction("vpdpbusd ymm", "avxvnni", 256, ("uint8", "int8", "int32"), 32),
    Instruction("pmaddubsw+pmaddwd zmm", "avx512bw", 512, ("uint8", "int8", "int32"), 64),
    Instruction("pmaddubsw+pmaddwd ymm", "avx2", 256, ("uint8", "int8", "int32"), 32),
    Instruction("pmaddwd zmm", "avx512bw", 512, ("int16", "int16", "int32"), 32),
    Instruction("pmaddwd ymm", "avx2", 256, ("int16", "int16", "int32"), 16),
    Instruction("fp32 FMA zmm", "avx512f", 512, ("float32", "float32", "float32"), 16),
    Instruction("fp32 FMA ymm", "fma", 256, ("float32", "float32", "float32"), 8),
)


def _dot(instruction: Instruction, acc: Any, x: Any, w: Any) -> Any:
    from tvm import tirx

    from tvmquant.schedules.linear.tir import intrinsic, splat

    wide, lanes = instruction.bits == 512, instruction.bits // 32
    if instruction.name.startswith("vpdpbusd"):
        return intrinsic("int32", lanes, f"llvm.x86.avx512.vpdpbusd.{instruction.bits}", acc, x, w)
    madd = "llvm.x86.avx512.pmaddw.d.512" if wide else "llvm.x86.avx2.pmadd.wd"
    if instruction.name.startswith("pmaddubsw"):
        name = "llvm.x86.avx512.pmaddubs.w.512" if wide else "llvm.x86.avx2.pmadd.ub.sw"
        pairs = intrinsic("int16", 2 * lanes, name, x, w)
        return acc + intrinsic("int32", lanes, madd, pairs, splat("int16", 1, 2 * lanes))
    if instruction.name.startswith("pmaddwd"):
        return acc + intrinsic("int32", lanes, madd, x, w)
    return tirx.call_llvm_pure_intrin(f"float32x{lanes}", "llvm.fma", x, w, acc)


def _loop(instruction: Instruction, rows: int, columns: int) -> Any:
    """PrimFunc ``(x, w, out)``: ``TURNS`` turns of ``rows * columns`` vector operations."""
    from tvm.script.ir_builder import IRBuilder
    from tvm.tirx.script import builder as T

    from tvmquant.schedules.linear.tir import Register, i64, load, store

    sizes = _sizes(instruction, rows * columns)
    lanes = [size // count for size, count in zip(sizes, (OPERANDS, OPERANDS, rows * columns))]
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("peak")
        x, w, out = (
            T.arg(name, T.Buffer((i64(size),), dtype))
            for name, size, dtype in zip(("x", "w", "out"), sizes, instruction.dtypes)
        )
        T.func_attr({"global_symbol": "peak", "tirx.noalias": True})
        sums = [Register(instruction.dtypes[2], lanes[2]) for _ in range(rows * columns)]
        for index, register in enumerate(sums):
            register.set(load(out, i64(index * lanes[2]), lanes[2]))
        with T.serial(i64(0), i64(TURNS)) as turn:
            place = turn % i64(PLACES)
            for i in range(rows):
                for j in range(columns):
                    xs = load(x, (place + i64(i)) * i64(lanes[0]), lanes[0])
                    ws = load(w, (place + i64(j)) * i64(lanes[1]), lanes[1])
                    register = sums[i * columns + j]
                    register.set(_dot(instruction, register.get(), xs, ws))
        for index, register in enumerate(sums):
            store(out, register.get(), i64(index * lanes[2]), lanes[2])
    return builder.get()


def _sizes(instruction: Instruction, count: int) -> list[int]:
    """Elements of the two operands and of ``count`` accumulators."""
    vectors = (OPERANDS, OPERANDS, count)
    return [
        count * instruction.bits // 8 // np.dtype(dtype).itemsize
        for count, dtype in zip(vectors, instruction.dtypes)
    ]


def measure_peaks(device: Any = None) -> dict[str, float]:
    """GOP/s of one thread for each instruction of the processor, the best of many tries."""
    from tvmquant.targets import get_device

    device = device or get_device("host")
    return {
        instruction.name: max(_gops(instruction, tile, device) for tile in TILES)
        for instruction in INSTRUCTIONS
        if instruction.feature in device.features
    }


def _gops(instruction: Instruction, tile: tuple[int, int], device: Any) -> float:
    run, _ = _compiled(instruction, tile, device)
    best = min(_seconds(run) for _ in range(TRIES))
    return 2e-9 * TURNS * tile[0] * tile[1] * instruction.macs / best


def run_loop(instruction: Instruction, tile: tuple[int, int]) -> np.ndarray:
    """All accumulators after one loop over ones; on the host."""
    from tvmquant.targets import get_device

    run, out = _compiled(instruction, tile, get_device("host"))
    run()
    return out.numpy()


def _compiled(
    instruction: Instruction, tile: tuple[int, int], device: Any
) -> tuple[Callable[[], Any], Any]:
    import tvm

    count = tile[0] * tile[1]
    module = tvm.compile(tvm.IRModule({"peak": _loop(instruction, *tile)}), target=device.target)
    x, w, _ = (np.ones(n, d) for n, d in zip(_sizes(instruction, count), instruction.dtypes))
    out = np.zeros(_sizes(instruction, count)[2], instruction.dtypes[2])
    tensors = [tvm.runtime.tensor(array) for array in (x, w, out)]
    return partial(module["peak"], *tensors), tensors[2]


def _seconds(run: Any) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def best_int8(peaks: dict[str, float]) -> float:
    """The highest peak of 8-bit products; NaN on a processor without any of the instructions."""
    found = [v for k, v in peaks.items() if k.startswith(("vpdpbusd", "pmaddubsw"))]
    return max(found, default=float("nan"))


def best_float(peaks: dict[str, float]) -> float:
    """The highest peak of float32 multiply-adds."""
    return max((v for k, v in peaks.items() if k.startswith("fp32")), default=float("nan"))
