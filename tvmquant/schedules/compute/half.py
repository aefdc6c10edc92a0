"""Half-precision numbers as bits to float32, without the type."""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx

from tvmquant.ops.half import HALF_TO_FLOAT
from tvmquant.schedules.compute.legalize import emit, legalizes

# Moved to the place of float32's exponent, half's is too small by 127 - 15.
REBIAS = 2.0**112


def half_to_float_te(h: te.Tensor) -> te.Tensor:
    """See :func:`tvmquant.reference.half_to_float` (for finite numbers)."""

    def element(*index: Any) -> Any:
        bits = h(*index).astype("int32")
        magnitude = tirx.reinterpret("float32", (bits & 0x7FFF) << 13)
        sign = (bits & 0x8000) << 16
        widened = tirx.reinterpret("int32", magnitude * tirx.const(REBIAS, "float32"))
        return tirx.reinterpret("float32", widened | sign)

    return te.compute(h.shape, element, name="half_to_float")


@legalizes(HALF_TO_FLOAT)
def _legalize_half(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    return emit(bb, "half_to_float", half_to_float_te, call.args)
