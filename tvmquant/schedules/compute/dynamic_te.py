"""Dynamic quantization in TE form, for devices whose schedules are rules: GPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import te, tirx

from tvmquant.ops.dynamic import params_shape
from tvmquant.reference.dynamic import TINY

_MAGNITUDE, _INFINITY = 0x7FFFFFFF, 0x7F800000
_LARGEST = float(np.finfo(np.float32).max)


def dynamic_quantize_te(
    x: te.Tensor, *, bits: int, per_row: bool, symmetric: bool
) -> list[te.Tensor]:
    """Integers, scale and zero point: see :func:`tvmquant.reference.dynamic_quantize`."""
    shape = [int(dim) for dim in x.shape]
    params = params_shape(shape, per_row)
    zero, one, steps = (_float(value) for value in (0, 1, 2**bits - 1))
    half = 2 ** (bits - 1)

    def magnitude_of(value: Any) -> Any:
        return tirx.reinterpret("int32", value) & tirx.const(_MAGNITUDE, "int32")

    low = _reduced(x, per_row, te.min, "low")
    high = _reduced(x, per_row, te.max, "high")
    magnitude = _reduced(x, per_row, te.max, "magnitude", magnitude_of)

    def safe(index: Any) -> Any:
        least, most = tirx.min(low(*index), zero), tirx.max(high(*index), zero)
        if symmetric:
            found = tirx.div(tirx.max(most, zero - least), _float(half - 1))
        else:
            found = tirx.div(tirx.min(most - least, _float(_LARGEST)), steps)
        return tirx.Select(found >= _float(float(TINY)), found, zero)

    ranges = te.compute(low.shape, lambda *i: safe(i), name="range")

    def divisor(index: Any) -> Any:
        return tirx.Select(ranges(*index) > zero, ranges(*index), one)

    def point(index: Any) -> Any:
        least = tirx.min(low(*index), zero)
        exact = tirx.nearbyint(tirx.div(zero - least, divisor(index)))
        found = _float(half) if symmetric else tirx.min(tirx.max(exact, zero), steps)
        return tirx.Select(tirx.all(ranges(*index) > zero, finite(index)), found, zero)

    def finite(index: Any) -> Any:
        return magnitude(*index) < tirx.const(_INFINITY, "int32")

    points = te.compute(low.shape, lambda *i: point(i), name="point")

    def element(*index: Any) -> Any:
        own = index[:-1] if per_row else ()
        value = tirx.nearbyint(tirx.div(x(*index), divisor(own)))
        moved = tirx.min(tirx.max(value, zero - points(*own)), steps - points(*own)) + points(*own)
        return tirx.Select(finite(own), moved, zero).astype("int32").astype("uint8")

    def scale(*index: Any) -> Any:
        own = index[:-1]
        return tirx.Select(finite(own), divisor(own), tirx.const(float("nan"), "float32"))

    return [
        te.compute(shape, element, name="q"),
        te.compute(params, scale, name="scale"),
        te.compute(params, lambda *i: points(*i[:-1]).astype("uint8"), name="zero_point"),
    ]


def _float(value: float) -> Any:
    return tirx.const(value, "float32")


def _reduced(
    x: te.Tensor,
    per_row: bool,
    reducer: Any,
    name: str,
    term: Callable[[Any], Any] = lambda value: value,
) -> te.Tensor:
    """Over the last axis, and without rows over the others then, so that many threads share it."""
    *rows, size = (int(dim) for dim in x.shape)
    k = te.reduce_axis((0, size), name="k")
    found = te.compute(
        rows,
        lambda *i: reducer(term(x(*i, k)), axis=k),
        name=name if per_row or not rows else f"{name}_of_rows",
    )
    if per_row or not rows:
        return found
    axes = [te.reduce_axis((0, dim), name=f"k{i}") for i, dim in enumerate(rows)]
    return te.compute((), lambda: reducer(found(*axes), axis=axes), name=name)
