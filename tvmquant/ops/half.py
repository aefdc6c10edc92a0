"""Weights stored as float16.

``tvmquant.half_to_float(h)`` widens the bits of IEEE half-precision numbers (uint16) to float32,
exactly. The numbers travel as integers, so that no processor needs to know the type.
"""

from __future__ import annotations

from typing import Any

from tvm import relax

from tvmquant.ops.registry import make_call, register

HALF_TO_FLOAT = "tvmquant.half_to_float"


def _infer(call: relax.Call, _bb: Any) -> relax.TensorType:
    return relax.TensorType(call.args[0].ty.shape, "float32")


register(HALF_TO_FLOAT, 1, _infer)


def half_to_float(bits: relax.Expr) -> relax.Call:
    """float32 of the half-precision numbers whose bits a uint16 tensor holds."""
    return make_call(HALF_TO_FLOAT, [bits])
