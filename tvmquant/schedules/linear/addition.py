"""A residual addition between a layer's own requantization and its output.

The meaning is :func:`tvmquant.reference.add` of the layer's clamped output and another tensor.
``acc = own * own_multiplier + other * other_multiplier`` in int32 is requantized once. Where one
multiplier is a power of two, an FMA does the same: it rounds the exact sum once, as the
conversion of ``acc`` to float32 does, and powers of two move into the requantize parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from tvmquant.schedules.linear.rounding import BEYOND, Clamp, nearest, rounded
from tvmquant.schedules.linear.tir import (
    Expr,
    Register,
    bits_as,
    broadcast,
    cast,
    i64,
    intrinsic,
    load,
    splat,
    store,
)

# What follows the four numbers of every layer: zero point, low and high of the sum, then eight
# bytes of multipliers, the offset and the requantize parameters.
NUMBERS = 8
# Workload.residual: a flavour of the requantization of an integer sum, or what an FMA multiplies.
INTEGER_FORMS = ("float", "fixed_point", "power_of_two")
FMA_OWN, FMA_OTHER = "fma_own", "fma_other"
_LARGEST = 1 << 22  # multiplier: no partial sum overflows


@dataclass(frozen=True)
class Sum:
    """The numbers of :func:`tvmquant.reference.add`; ``own`` is the layer's output.

    Attributes
    ----------
    flavour : str
        Of the requantization.
    params : tuple of np.ndarray
        Its parameters, one value each.
    own_zero_point, other_zero_point, own_multiplier, other_multiplier : int
    zero_point, low, high : int
        Of the result.
    """

    flavour: str
    params: tuple[np.ndarray, ...]
    own_zero_point: int
    other_zero_point: int
    own_multiplier: int
    other_multiplier: int
    zero_point: int
    low: int
    high: int

    def encode(self, fma: bool) -> tuple[str, np.ndarray] | None:
        """Form and int32 numbers for a kernel, ``None`` where the kernels might overflow.

        Parameters
        ----------
        fma : bool
            Whether the processor has fused multiply-adds.
        """
        multipliers = (self.own_multiplier, self.other_multiplier)
        single = all(param.size == 1 for param in self.params)
        if self.flavour not in INTEGER_FORMS or not single or max(map(abs, multipliers)) > _LARGEST:
            return None
        if self.flavour == "float":
            scale = float(self.params[0].reshape(-1)[0])
            if 255.0 * sum(map(abs, multipliers)) * abs(scale) >= BEYOND:
                return None
            found = self._fma(scale) if fma else None
            if found:
                return found
        params = [
            int(
                param.astype(np.float32 if self.flavour == "float" else np.int32)
                .view(np.int32)
                .reshape(-1)[0]
            )
            for param in self.params
        ]
        params += [0] * (2 - len(params))
        offset = -self.other_zero_point * self.other_multiplier
        return self.flavour, self._numbers(*multipliers, offset, *params)

    def _fma(self, scale: float) -> tuple[str, np.ndarray] | None:
        for form, unit, factor in (
            (FMA_OTHER, self.own_multiplier, self.other_multiplier),
            (FMA_OWN, self.other_multiplier, self.own_multiplier),
        ):
            parameter = np.float32(scale * unit)
            if unit > 0 and unit & (unit - 1) == 0 and float(parameter) == scale * unit:
                bits = [int(np.float32(v).view(np.int32)) for v in (factor / unit, parameter)]
                return form, self._numbers(bits[0], 0, self.other_zero_point, bits[1], 0)
        return None

    def _numbers(self, *rest: int) -> np.ndarray:
        return np.array([self.zero_point, self.low, self.high, *rest], np.int32)


@dataclass
class Addition:
    """Emitter of the addition.

    Attributes
    ----------
    form : str
        ``Workload.residual``.
    x86 : bool
        Use the x86 conversion instruction.
    other : Buffer
        Flat uint8, as large as the output.
    own, total : Clamp
        Of the layer's own output, and of the sum.
    numbers : list of Expr
        What follows ``total`` in the numbers of :meth:`Sum.encode`.
    """

    form: str
    x86: bool
    other: Expr
    own: Clamp
    total: Clamp
    numbers: list[Expr]

    def emit(
        self, flavour: str, acc: Expr, params: list[Expr], lanes: int, at: Expr, exists: int
    ) -> Expr:
        """Sum of a vector, int32, rounded but neither offset nor clamped.

        Parameters
        ----------
        flavour, acc, params, lanes
            Of the layer's own requantization, see :func:`rounded`.
        at : Expr
            Offset of the vector in ``other``.
        exists : int
            Lanes that exist.
        """
        other = cast("int32", lanes, load_existing(self.other, lanes, at, exists))
        if self.form in INTEGER_FORMS:
            own = rounded(flavour, acc, params, lanes, self.x86, self.own)
            return self._integer(self.own.apply("int32", lanes, own), other, lanes)
        if flavour == "float":
            scaled = cast("float32", lanes, acc) * params[0]
            own = tirx.nearbyint(self.own.apply("float32", lanes, scaled))
        else:
            own = rounded(flavour, acc, params, lanes, self.x86, self.own)
            own = cast("float32", lanes, self.own.apply("int32", lanes, own))
        multiplier, _, zero_point, parameter, _ = self.numbers
        other = cast("float32", lanes, other - broadcast(zero_point, lanes))
        factors = [own, other] if self.form == FMA_OWN else [other, own]
        factor = broadcast(bits_as("float32", 1, multiplier), lanes)
        name = f"llvm.fma.v{lanes}f32"
        total = intrinsic("float32", lanes, name, factors[0], factor, factors[1])
        scale = broadcast(bits_as("float32", 1, parameter), lanes)
        return nearest(total * scale, lanes)

    def _integer(self, own: Expr, other: Expr, lanes: int) -> Expr:
        own_multiplier, other_multiplier, offset, *params = self.numbers
        acc = own * broadcast(own_multiplier, lanes) + other * broadcast(other_multiplier, lanes)
        acc = acc + broadcast(offset, lanes)
        if self.form == "float":
            params = [bits_as("float32", 1, params[0])]
        vectors = [broadcast(param, lanes) for param in params]
        return rounded(self.form, acc, vectors, lanes, self.x86, self.total)


def load_existing(buffer: Expr, lanes: int, at: Expr, exists: int) -> Expr:
    """Vector of uint8 from a flat buffer, in which only the first ``exists`` lanes lie."""
    if exists >= lanes:
        return load(buffer, at, lanes)
    # Behind the last channel may lie the end of the tensor.
    vector = Register("uint8", lanes)
    vector.set(splat("uint8", 0, lanes))
    done = 0
    for size in (8, 4, 2, 1):
        if exists - done >= size:
            store(vector.buffer, load(buffer, at + done, size), i64(done), size)
            done += size
    return vector.get()


def make_addition(form: str, x86: bool, other: Any, numbers: list[Expr]) -> Addition:
    """Addition of a kernel whose ``qinfo`` holds ``numbers``."""
    own, total = Clamp(*numbers[1:4]), Clamp(*numbers[4:7])
    return Addition(form, x86, other, own, total, numbers[7:])
