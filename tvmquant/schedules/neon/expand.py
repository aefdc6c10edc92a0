"""Sub-byte weights become int8 or int16 when a model is loaded."""

from __future__ import annotations

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvmquant.schedules.functions import argument, mark
from tvmquant.schedules.linear.tir import cast, i64, load, splat, store
from tvmquant.schedules.neon.packing import LANES as _LANES
from tvmquant.schedules.neon.packing import packed_size
from tvmquant.schedules.workload import Expansion


def make_expansion(name: str, count: int, bits: int, dtype: str) -> Expansion:
    """Expansion of packed codes to flat values of type ``dtype``, padded as the codes are."""
    size, per = packed_size(count, bits), 8 // bits
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            packed = argument("packed", (size,), "uint8")
            out = argument("out", (per * size,), dtype)
            mark(name)
            with T.serial(i64(size // _LANES)) as i:
                codes = T.bind(load(packed, i * _LANES, _LANES))
                for piece in range(per):
                    high = codes << splat("uint8", 8 - bits * (piece + 1), _LANES)
                    value = cast("int8", _LANES, high) >> splat("int8", 8 - bits, _LANES)
                    if bits == 1:
                        value = value | splat("int8", 1, _LANES)
                    store(out, cast(dtype, _LANES, value), piece * size + i * _LANES, _LANES)
    return Expansion(builder.get(), 1, (((per * size,), dtype),))
