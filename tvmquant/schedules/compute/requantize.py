"""From the int32 accumulator to the output, in TE: bit for bit ``reference.requantize``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from tvmquant.ops.integer import OUT_DTYPE
from tvmquant.schedules.compute.legalize import load

# Beyond this every shifted accumulator saturates, and 2**14 << 16 still fits int32.
_SHIFT_LIMIT = 1 << 14


@dataclass(frozen=True)
class OutputSpec:
    """How an operator writes its result.

    Attributes
    ----------
    flavour : str
        One of :data:`tvmquant.reference.FLAVOURS`.
    zero_point, qmin, qmax : int or tirx expression (int32)
        Output zero point and clamp; ``qmin - zero_point`` and ``qmax - zero_point`` must stay
        within ±2**14 (they do for uint8).
    """

    flavour: str
    zero_point: Any = 0
    qmin: Any = 0
    qmax: Any = 255

    @classmethod
    def of(cls, attrs: Mapping[str, Any]) -> OutputSpec:
        """Read the OUT attributes of an integer operator."""
        return cls(
            str(attrs["requantize"]),
            *(int(attrs[key]) for key in ("out_zero_point", "out_min", "out_max")),
        )

    @property
    def dtype(self) -> str:
        """Type of the output elements."""
        return OUT_DTYPE.get(self.flavour, "uint8")


def requantize_te(acc: Any, params: Sequence[Any], out: OutputSpec, index: Sequence[Any]) -> Any:
    """Requantize one accumulator.

    Parameters
    ----------
    acc : tirx expression
        int32.
    params : sequence of te.Tensor or scalar expression
        Requantize parameters of the flavour; they broadcast against the output.
    out : OutputSpec
    index : sequence of tirx expressions
        Index of the output element (channel last).

    Returns
    -------
    tirx expression
        Of dtype ``out.dtype``.
    """
    values = [load(param, list(index)) for param in params]
    if out.flavour == "none":
        return acc
    if out.flavour == "dequantize":
        return acc.astype("float32") * values[0]
    low, high = _int32(out.qmin) - out.zero_point, _int32(out.qmax) - out.zero_point
    if out.flavour == "float":
        # nearbyint stands between the product and the clamp: nothing contracts into an FMA.
        scaled = tirx.nearbyint(acc.astype("float32") * values[0])
        wide = clip(scaled, low.astype("float32"), high.astype("float32")).astype("int32")
    elif out.flavour == "fixed_point":
        wide = clip(_fixed_point(acc, *values), low.astype("int64"), high.astype("int64"))
        wide = wide.astype("int32")
    else:
        wide = clip(_power_of_two(acc, values[0]), low, high)
    return (wide + out.zero_point).astype("uint8")


def clip(value: Any, low: Any, high: Any) -> Any:
    """``min(max(value, low), high)``."""
    return tirx.min(tirx.max(value, low), high)


def _int32(value: Any) -> Any:
    return tirx.const(value, "int32") if isinstance(value, int) else value


def _fixed_point(acc: Any, multiplier: Any, shift: Any) -> Any:
    """Rounded ``acc * multiplier / 2**shift``: the product needs 64 bits."""
    shift = shift.astype("int64")
    half = tirx.const(1, "int64") << (shift - tirx.const(1, "int64"))
    return (acc.astype("int64") * multiplier.astype("int64") + half) >> shift


def _power_of_two(acc: Any, shift: Any) -> Any:
    """Rounded shift in 32 bits; the carry of the rounding is the last bit shifted out."""
    one, zero = tirx.const(1, "int32"), tirx.const(0, "int32")
    right = tirx.max(shift, one)
    rounded = (acc >> right) + ((acc >> (right - one)) & one)
    limit = tirx.const(_SHIFT_LIMIT, "int32")
    left = clip(acc, zero - limit, limit) << tirx.max(zero - shift, zero)
    return tirx.Select(shift > zero, rounded, left)
