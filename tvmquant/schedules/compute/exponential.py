"""``exp`` in plain vector instructions, and what is made of it.

TVM leaves ``exp`` to libm, one call an element.
"""

from __future__ import annotations

from math import factorial, log, log2
from typing import Any

from tvm import relax, te, tirx

SIGMOID, SILU = "relax.sigmoid", "relax.nn.silu"
# Below it exp(x) is no normal float32.
_LOWEST = -87.0
# Taylor terms: on |r| <= ln(2) / 2 the remainder is below half a unit in the last place.
_TERMS = 8


def exp_te(x: Any) -> Any:
    """``exp`` of a float32 that is not positive.

    ``x = n ln 2 + r``; a polynomial gives ``exp(r)``, the exponent bits ``2**n``. The relative
    error is below 4e-7; below -87 the result stays at its value there (1.6e-38).
    """
    x = tirx.max(x, _float(_LOWEST))
    n = tirx.nearbyint(x * _float(log2(2.718281828459045)))
    # ln 2 in two parts, the first short enough for n times it to be exact.
    high = 0.693359375
    r = (x - n * _float(high)) - n * _float(log(2) - high)
    value = _float(1 / factorial(_TERMS - 1))
    for k in reversed(range(_TERMS - 1)):
        value = value * r + _float(1 / factorial(k))
    bits = (n.astype("int32") + tirx.const(127, "int32")) << tirx.const(23, "int32")
    return value * tirx.reinterpret("float32", bits)


def sigmoid_te(x: te.Tensor) -> te.Tensor:
    """Logistic function of a float32 tensor."""
    return te.compute(x.shape, lambda *i: _sigmoid(x(*i)), name="sigmoid")


def silu_te(x: te.Tensor) -> te.Tensor:
    """``x * sigmoid(x)`` of a float32 tensor."""
    return te.compute(x.shape, lambda *i: x(*i) * _sigmoid(x(*i)), name="silu")


def _sigmoid(x: Any) -> Any:
    """``1 / (1 + e)`` or ``e / (1 + e)`` with ``e = exp(-|x|)``: exact at both ends."""
    zero, one = _float(0.0), _float(1.0)
    power = exp_te(tirx.min(x, zero - x))
    return tirx.Select(x >= zero, one, power) / (one + power)


def _float(value: float) -> Any:
    return tirx.const(value, "float32")


def _legalize(name: str, definition: Any) -> Any:
    def legalize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        if str(call.args[0].ty.dtype) != "float32":
            return call.op.get_attr("FLegalize")(bb, call)
        return bb.call_te(definition, call.args[0], primfunc_name_hint=name)

    return legalize


LOWERINGS = {SIGMOID: _legalize("sigmoid", sigmoid_te), SILU: _legalize("silu", silu_te)}
