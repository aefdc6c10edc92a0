"""The multiply-add step of an instruction set as a TVM tensor intrinsic."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

STEP = 4
# From sums, bytes of the activations and of the weights to new sums, all of them vectors.
Step = Callable[[Any, Any, Any], Any]


def lanes_of(isa: str) -> int:
    """Output channels of one step; 0 for an instruction set without an intrinsic."""
    return {"avx512_vnni": 16, "avx_vnni": 8, "avx2": 8}.get(isa, 0)


@cache
def register(isa: str) -> str:
    """Register the intrinsic of ``isa`` with TVM; returns its name.

    ``C[lanes] += A[4] (uint8) * B[lanes, 4] (int8)``. With ``avx2`` it is exact only for weights
    of which no pair saturates.
    """
    name = f"tvmquant_dot4_{isa}"
    lanes = lanes_of(isa)
    step = _maddubs(lanes) if isa == "avx2" else _dpbusd(lanes)
    TensorIntrin.register(name, _description(lanes), _implementation(lanes, step), override=True)
    return name


def _description(lanes: int) -> Any:
    @T.prim_func(s_tir=True)
    def description(
        a: T.Buffer((STEP,), "uint8", offset_factor=1),
        b: T.Buffer((lanes, STEP), "int8", offset_factor=1),
        c: T.Buffer((lanes,), "int32", offset_factor=1),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:lanes], a[0:STEP], b[0:lanes, 0:STEP])
            T.writes(c[0:lanes])
            for i in T.serial(0, lanes):
                for k in T.serial(0, STEP):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        c[vi] = c[vi] + T.cast(a[vk], "int32") * T.cast(b[vi, vk], "int32")

    return description


def _implementation(lanes: int, step: Step) -> Any:
    wide, packed, unsigned = f"int32x{lanes}", f"int8x{STEP * lanes}", f"uint8x{STEP * lanes}"

    @T.prim_func(s_tir=True)
    def implementation(
        a: T.Buffer((STEP,), "uint8", offset_factor=1),
        b: T.Buffer((lanes, STEP), "int8", offset_factor=1),
        c: T.Buffer((lanes,), "int32", offset_factor=1),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:lanes], a[0:STEP], b[0:lanes, 0:STEP])
            T.writes(c[0:lanes])
            c[T.ramp(T.int32(0), 1, lanes)] = step(
                c.vload([0], wide),
                T.reinterpret(
                    unsigned,
                    T.broadcast(T.reinterpret("int32", a.vload([0], "uint8x4")), lanes),
                ),
                b.vload([0, 0], packed),
            )

    return implementation


def _dpbusd(lanes: int) -> Step:
    name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
    return lambda total, a, b: T.call_llvm_pure_intrin(f"int32x{lanes}", name, total, a, b)


def _maddubs(lanes: int) -> Step:
    def step(total: Any, a: Any, b: Any) -> Any:
        pairs = T.call_llvm_pure_intrin(f"int16x{2 * lanes}", "llvm.x86.avx2.pmadd.ub.sw", a, b)
        ones = T.broadcast(T.int16(1), 2 * lanes)
        wide = f"int32x{lanes}"
        return total + T.call_llvm_pure_intrin(wide, "llvm.x86.avx2.pmadd.wd", pairs, ones)

    return step
