"""Pooling and means over uint8 feature maps (channels-last)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from tvmquant.ops.integer import ints
from tvmquant.reference.pooling import pool_geometry
from tvmquant.schedules.compute.legalize import emit, legalizes
from tvmquant.schedules.compute.requantize import OutputSpec, requantize_te


@dataclass(frozen=True)
class Window:
    """A pooling window: ``size``, ``strides``, ``dilation`` (2 each), ``padding`` (4)."""

    size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool

    @classmethod
    def of(cls, attrs: Mapping[str, Any]) -> Window:
        """Read the attributes of a pooling operator."""
        keys = ("pool_size", "strides", "padding", "dilation")
        return cls(*(tuple(ints(attrs[key])) for key in keys), bool(attrs["ceil_mode"]))

    def out_shape(self, shape: Sequence[int]) -> list[int]:
        """Output shape for an input ``[N, H, W, C]``."""
        n, h, w, c = shape
        top, left, bottom, right = self.padding
        rows = (self.size[0], self.strides[0], top, bottom, self.dilation[0])
        cols = (self.size[1], self.strides[1], left, right, self.dilation[1])
        return [
            n,
            pool_geometry(h, *rows, self.ceil_mode),
            pool_geometry(w, *cols, self.ceil_mode),
            c,
        ]

    def read(self, x: te.Tensor, index: Sequence[Any], tap: Sequence[Any], fill: Any) -> Any:
        """Cell ``tap`` of the window of the output element ``index``; ``fill`` outside."""
        n, i, j, c = index
        place, inside = [], []
        for out, k, axis in ((i, tap[0], 0), (j, tap[1], 1)):
            p = out * self.strides[axis] + k * self.dilation[axis] - self.padding[axis]
            size = int(x.shape[axis + 1])
            last = (self.out_shape([int(d) for d in x.shape])[axis + 1] - 1) * self.strides[axis]
            last += (self.size[axis] - 1) * self.dilation[axis] - self.padding[axis]
            if self.padding[axis]:
                inside.append(p >= 0)
            if last >= size:
                inside.append(p < size)
            place.append(p)
        value = x(n, *place, c)
        return tirx.if_then_else(tirx.all(*inside), value, fill) if inside else value

    def taps(self) -> list[Any]:
        """Reduction axes over the window."""
        return [te.reduce_axis((0, k), name=name) for k, name in zip(self.size, "hw")]


def max_pool2d_te(x: te.Tensor, window: Window) -> te.Tensor:
    """Max pooling, see :func:`tvmquant.reference.max_pool2d`."""
    taps = window.taps()
    fill = tirx.const(0, x.dtype)  # stored values are never negative
    shape = window.out_shape([int(dim) for dim in x.shape])
    return te.compute(
        shape, lambda *i: te.max(window.read(x, i, taps, fill), axis=taps), name="max_pool2d"
    )


def avg_pool2d_te(
    x: te.Tensor, params: Sequence[Any], window: Window, out: OutputSpec, x_zero_point: int
) -> te.Tensor:
    """Average pooling, see :func:`tvmquant.reference.avg_pool2d`.

    Raw values are summed and the zero point of the whole window is taken off afterwards, cells
    outside the map holding it.
    """
    taps = window.taps()
    count = int(np.prod(window.size))
    # Sums of a small window fit 16 bits: twice the lanes.
    wide = "uint16" if count * 255 < 2**16 else "int32"
    fill = tirx.const(x_zero_point, x.dtype)
    shape = window.out_shape([int(dim) for dim in x.shape])
    total = te.compute(
        shape,
        lambda *i: te.sum(window.read(x, i, taps, fill).astype(wide), axis=taps),
        name="pool_sum",
    )

    def element(*index: Any) -> Any:
        acc = total(*index).astype("int32") - count * x_zero_point
        return requantize_te(acc, params, out, index)

    return te.compute(shape, element, name="avg_pool2d")


def mean_te(
    x: te.Tensor,
    params: Sequence[Any],
    out: OutputSpec,
    axis: Sequence[int],
    keepdims: bool,
    x_zero_point: int,
) -> te.Tensor:
    """Mean over ``axis``, see :func:`tvmquant.reference.mean`."""
    shape = [int(dim) for dim in x.shape]
    axis = sorted(a % len(shape) for a in axis)
    count = int(np.prod([shape[a] for a in axis]))
    taps = {a: te.reduce_axis((0, shape[a]), name=f"r{a}") for a in axis}
    kept = [i for i in range(len(shape)) if i not in taps]
    out_shape = [1 if i in taps else d for i, d in enumerate(shape)]
    if not keepdims:
        out_shape = [shape[i] for i in kept]

    def source(index: Sequence[Any]) -> list[Any]:
        spatial = dict(zip(range(len(shape)) if keepdims else kept, index))
        return [taps.get(i, spatial.get(i)) for i in range(len(shape))]

    total = te.compute(
        out_shape,
        lambda *i: te.sum(x(*source(i)).astype("int32"), axis=list(taps.values())),
        name="mean_sum",
    )

    def element(*index: Any) -> Any:
        return requantize_te(total(*index) - count * x_zero_point, params, out, index)

    return te.compute(out_shape, element, name="mean")


@legalizes("tvmquant.max_pool2d")
def _legalize_max_pool(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    window = Window.of(call.attrs)
    return emit(bb, "max_pool2d", lambda x: max_pool2d_te(x, window), call.args)


@legalizes("tvmquant.avg_pool2d")
def _legalize_avg_pool(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    window, out = Window.of(call.attrs), OutputSpec.of(call.attrs)
    zero_point = int(call.attrs["x_zero_point"])

    def definition(x: te.Tensor, *params: Any) -> te.Tensor:
        return avg_pool2d_te(x, params, window, out, zero_point)

    return emit(bb, "avg_pool2d", definition, call.args)


@legalizes("tvmquant.mean")
def _legalize_mean(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    out, zero_point = OutputSpec.of(call.attrs), int(call.attrs["x_zero_point"])
    axis, keepdims = ints(call.attrs["axis"]), bool(call.attrs["keepdims"])

    def definition(x: te.Tensor, *params: Any) -> te.Tensor:
        return mean_te(x, params, out, axis, keepdims, zero_point)

    return emit(bb, "mean", definition, call.args)
