"""Resize through source indices known at compile time.

TVM's own lowering computes every coordinate in float32 inside the kernel, with an epsilon that
picks another pixel than ONNX for some sizes, and converts each byte to float and back. So nearest
neighbours are copied here, and linear interpolation of channels-first images, whose inner loop is
a row, reads its places and weights from tables.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, te, tirx

from tvmquant.ops.integer import ints, shape_of

RESIZE = "relax.image.resize2d"


def source_indices(size: int, target: int, mode: str, rounding: str) -> np.ndarray:
    """Source index of each output position along one axis, as ONNX ``Resize`` defines it.

    Parameters
    ----------
    size, target : int
        Length of the axis before and after.
    mode : str
        Coordinate transformation: ``half_pixel``, ``pytorch_half_pixel``, ``align_corners``,
        ``asymmetric`` or ``tf_half_pixel_for_nn``.
    rounding : str
        ``round_prefer_floor``, ``round_prefer_ceil``, ``floor`` or ``ceil``; TVM's ``round`` is
        ``round_prefer_ceil``, and the empty string its default for the mode.

    Returns
    -------
    np.ndarray
        int64 ``[target]``, within ``[0, size)``.
    """
    place, half = source_places(size, target, mode), np.float32(0.5)
    if rounding == "round_prefer_floor":
        index = np.ceil(place - half)
    elif rounding in ("round_prefer_ceil", "round"):
        index = np.floor(place + half)
    elif rounding == "ceil":
        index = np.ceil(place)
    elif not rounding and mode == "align_corners":
        index = np.floor(place + half)
    else:
        index = np.floor(place)
    return np.clip(index, 0, size - 1).astype(np.int64)


def source_places(size: int, target: int, mode: str) -> np.ndarray:
    """Where each output lies among the inputs of one axis: float32 ``[target]``."""
    x = np.arange(target, dtype=np.float32)
    scale = np.float32(target) / np.float32(size)
    half = np.float32(0.5)
    if mode == "align_corners":
        step = np.float32(size - 1) / np.float32(target - 1) if target > 1 else np.float32(0)
        return x * step
    if mode == "asymmetric":
        return x / scale
    if mode == "tf_half_pixel_for_nn":
        return (x + half) / scale
    if mode == "pytorch_half_pixel" and target == 1:
        return np.zeros(1, np.float32)
    return (x + half) / scale - half


def linear_te(x: te.Tensor, rows: tuple[Any, ...], cols: tuple[Any, ...]) -> te.Tensor:
    """Bilinear resize of a float32 image ``[N, C, H, W]``.

    ``rows`` and ``cols`` are three tensors for each axis: the lower and the upper source index
    (int32) and the share of the upper one (float32) of each output position.
    """
    batch, channels, _, width = x.shape

    def mix(low: Any, high: Any, share: Any) -> Any:
        return low + (high - low) * share

    tall = te.compute(
        (batch, channels, rows[0].shape[0], width),
        lambda n, c, h, w: mix(x(n, c, rows[0](h), w), x(n, c, rows[1](h), w), rows[2](h)),
        name="resize_rows",
    )
    return te.compute(
        (batch, channels, rows[0].shape[0], cols[0].shape[0]),
        lambda n, c, h, w: mix(tall(n, c, h, cols[0](w)), tall(n, c, h, cols[1](w)), cols[2](w)),
        name="resize_linear",
    )


def _linear_tables(size: int, target: int, mode: str) -> list[np.ndarray]:
    place = source_places(size, target, mode)
    low = np.floor(place)
    ends = [np.clip(low + i, 0, size - 1).astype(np.int32) for i in (0, 1)]
    return [*ends, (place - low).astype(np.float32)]


def nearest_te(
    x: te.Tensor, rows: Any, cols: Any, axes: tuple[int, int], size: tuple[int, int]
) -> te.Tensor:
    """Copy ``x`` with the indices of two axes looked up.

    Parameters
    ----------
    x : te.Tensor
    rows, cols : te.Tensor or int
        Source index (int32) of each output position, or the factor of an exact enlargement.
    axes : tuple of int
        Height and width axis.
    size : tuple of int
        Height and width of the output.
    """
    shape = list(x.shape)
    for axis, extent in zip(axes, size):
        shape[axis] = extent

    def element(*index: Any) -> Any:
        place = list(index)
        for axis, source in zip(axes, (rows, cols)):
            known = isinstance(source, int)
            place[axis] = tirx.floordiv(index[axis], source) if known else source(index[axis])
        return x(*place)

    return te.compute(shape, element, name="resize_nearest")


def legalize_resize2d(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Lowering of ``relax.image.resize2d``; what is not treated here goes to TVM's own."""
    attrs = call.attrs
    layout, mode = str(attrs.layout), str(attrs.coordinate_transformation_mode)
    if attrs.method == "linear" and layout == "NCHW" and "crop" not in mode:
        return _legalize_linear(bb, call, mode)
    if attrs.method != "nearest_neighbor" or layout not in ("NHWC", "NCHW") or "crop" in mode:
        return call.op.get_attr("FLegalize")(bb, call)
    axes = (layout.index("H"), layout.index("W"))
    shape, size = shape_of(call.args[0]), tuple(ints(call.args[1].values))
    tables = [
        source_indices(shape[axis], target, mode, str(attrs.rounding_method))
        for axis, target in zip(axes, size)
    ]
    factors = [_enlargement(table) for table in tables]
    lookups = [table for table, factor in zip(tables, factors) if factor is None]

    def definition(x: te.Tensor, *rest: te.Tensor) -> te.Tensor:
        pending = iter(rest)
        rows, cols = (next(pending) if factor is None else factor for factor in factors)
        return nearest_te(x, rows, cols, axes, size)

    constants = [relax.const(table.astype(np.int32)) for table in lookups]
    return bb.call_te(definition, call.args[0], *constants, primfunc_name_hint="resize2d_nearest")


def _legalize_linear(bb: relax.BlockBuilder, call: relax.Call, mode: str) -> relax.Expr:
    if str(call.args[0].ty.dtype) != "float32" or str(call.ty.dtype) != "float32":
        return call.op.get_attr("FLegalize")(bb, call)
    sizes = zip(shape_of(call.args[0])[2:], ints(call.args[1].values))
    tables = [table for size, target in sizes for table in _linear_tables(size, target, mode)]
    return bb.call_te(
        lambda x, *t: linear_te(x, t[:3], t[3:]),
        call.args[0],
        *map(relax.const, tables),
        primfunc_name_hint="resize2d_linear",
    )


def _enlargement(table: np.ndarray) -> int | None:
    """The whole factor by which every pixel is repeated, ``None`` if it is uneven."""
    factor = int(np.count_nonzero(table == 0))
    even = np.array_equal(table, np.arange(len(table)) // max(factor, 1))
    return factor if even else None
