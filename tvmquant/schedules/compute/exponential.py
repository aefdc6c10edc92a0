"""``exp`` in plain vector instructions, and what is made of it.

TVM leaves ``exp`` and ``erf`` to libm, one call an element.
"""

from __future__ import annotations

from math import factorial, log, log2, pi, sqrt
from typing import Any

from tvm import relax, te, tirx

SIGMOID, SILU, ERF = "relax.sigmoid", "relax.nn.silu", "relax.erf"
# Below it exp(x) is no normal float32.
_LOWEST = -87.0
# Taylor terms: on |r| <= ln(2) / 2 the remainder is below half a unit in the last place.
_TERMS = 8
# Abramowitz and Stegun 1964, "Handbook of Mathematical Functions", formula 7.1.26.
_ERF_STEP = 0.3275911
_ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
# Taylor terms of erf below 1.
_ERF_TERMS = 11


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


def erf_te(x: te.Tensor) -> te.Tensor:
    """Error function of a float32 tensor, relative error below 6e-7."""
    return te.compute(x.shape, lambda *i: _erf(x(*i)), name="erf")


def _erf(x: Any) -> Any:
    """Taylor's series below 1, beyond it ``1 - t P(t) exp(-x**2)`` with ``t = 1 / (1 + p |x|)``."""
    zero, one = _float(0.0), _float(1.0)
    square, size = x * x, tirx.Select(x < zero, zero - x, x)
    series = _float(0.0)
    for n in reversed(range(_ERF_TERMS)):
        series = series * square + _float((-1) ** n / (factorial(n) * (2 * n + 1)) * 2 / sqrt(pi))
    t = one / (one + size * _float(_ERF_STEP))
    tail = _float(_ERF[-1])
    for factor in reversed(_ERF[:-1]):
        tail = tail * t + _float(factor)
    beyond = one - tail * t * exp_te(zero - square)
    return tirx.Select(size < one, x * series, tirx.Select(x < zero, zero - beyond, beyond))


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


LOWERINGS = {
    SIGMOID: _legalize("sigmoid", sigmoid_te),
    SILU: _legalize("silu", silu_te),
    ERF: _legalize("erf", erf_te),
}
