"""Table look-up of bytes with AVX-512 VBMI: 64 elements by two permutations and a blend."""

from __future__ import annotations

from math import prod

import tvm_ffi
from tvm import tirx
from tvm.ir import TensorLoad
from tvm.script import tirx as T

from tvmquant.schedules.default.analysis import Nest
from tvmquant.targets.device import Device

_PERMUTE = "llvm.x86.avx512.vpermi2var.qi.512"


def lut_kernel(func: tirx.PrimFunc, nest: Nest, device: Device) -> tirx.PrimFunc | None:
    """Kernel for a function that only looks bytes up in one table of bytes.

    Parameters
    ----------
    func : tirx.PrimFunc
        ``(x, table, out)``.
    nest : Nest
        Its only block.
    device : Device

    Returns
    -------
    tirx.PrimFunc or None
        ``None`` if the function does something else or the processor lacks VBMI: plain code,
        one load an element, is then the fastest.
    """
    if "avx512vbmi" not in device.features or not _is_lookup(func, nest):
        return None
    return vbmi_lookup(tuple(int(dim) for dim in nest.store.buffer.shape))


def _is_lookup(func: tirx.PrimFunc, nest: Nest) -> bool:
    """Whether the body is ``out[i] = table[x[i]]`` on bytes."""
    store = nest.store
    value = store.value if store is not None else None
    if not isinstance(value, TensorLoad) or len(value.indices) != 1 or len(func.params) != 3:
        return False
    index = value.indices[0]
    code = index.value if isinstance(index, tirx.Cast) else None
    if not isinstance(code, TensorLoad) or int(value.source.shape[0]) != 256:
        return False
    same = zip(func.params, (code.source, value.source, store.buffer))
    return (
        all(buffer.same_as(used) and str(buffer.dtype) == "uint8" for buffer, used in same)
        and tvm_ffi.structural_equal(list(code.source.shape), list(store.buffer.shape))
        and all(a.same_as(b) for a, b in zip(code.indices, store.indices))
    )


def vbmi_lookup(shape: tuple[int, ...]) -> tirx.PrimFunc:
    """``out = table[x]`` for uint8 ``x`` and ``out`` of ``shape`` and a uint8 table ``[256]``."""
    count = prod(shape)
    blocks, rest = count // 64, count % 64
    done = count - rest

    @T.prim_func(s_tir=True, private=True)
    def lut(
        x: T.Buffer(shape, "uint8"), table: T.Buffer((256,), "uint8"), out: T.Buffer(shape, "uint8")
    ) -> None:
        T.func_attr({"tirx.noalias": True})
        codes = T.decl_buffer((count,), "uint8", data=x.data)
        values = T.decl_buffer((count,), "uint8", data=out.data)
        for i in T.serial(blocks):
            values.vstore(
                [i * 64],
                T.Select(
                    codes.vload([i * 64], "uint8x64") < T.broadcast(T.uint8(128), 64),
                    T.call_llvm_pure_intrin(
                        "uint8x64",
                        _PERMUTE,
                        table.vload([0], "uint8x64"),
                        codes.vload([i * 64], "uint8x64"),
                        table.vload([64], "uint8x64"),
                    ),
                    T.call_llvm_pure_intrin(
                        "uint8x64",
                        _PERMUTE,
                        table.vload([128], "uint8x64"),
                        codes.vload([i * 64], "uint8x64"),
                        table.vload([192], "uint8x64"),
                    ),
                ),
            )
        for j in T.serial(rest):
            values[done + j] = table[T.Cast("int32", codes[done + j])]

    return lut
