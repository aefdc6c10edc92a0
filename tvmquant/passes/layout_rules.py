"""What every operator becomes in a graph with channels last.

A rule takes the names of the values so far and an operator of the original order, and returns the
operator on channels-last values; ``None`` where it cannot be had.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.graph import Builder, const_value, is_const, name_of
from tvmquant.interpreter.float_ops import BINARY, UNARY
from tvmquant.ops.integer import ints, shape_of
from tvmquant.passes.layout_names import AXIS, TO_LAST, Names

_SAME = {*UNARY, "clip", "nn.leakyrelu", "astype"}
_NARY = {*BINARY, "divide"}


def _conv2d(names: Names, builder: Builder, call: relax.Call) -> Any:
    if str(call.attrs["data_layout"]) != "NCHW":
        return None
    x = names.channels_last(builder, call.args[0])
    w = _ohwi(builder, call.args[1])
    attrs = call.attrs
    return relax.op.nn.conv2d(
        x,
        w,
        strides=ints(attrs["strides"]),
        padding=ints(attrs["padding"]),
        dilation=ints(attrs["dilation"]),
        groups=int(attrs["groups"]),
        data_layout="NHWC",
        kernel_layout="OHWI",
    )


def _same(names: Names, builder: Builder, call: relax.Call) -> Any:
    return relax.Call(call.op, [names.last[call.args[0]], *call.args[1:]], call.attrs)


def _nary(names: Names, builder: Builder, call: relax.Call) -> Any:
    if any(not is_const(a) and len(shape_of(a)) not in (0, 4) for a in call.args):
        return None
    args = [names.channels_last(builder, a) if len(shape_of(a)) else a for a in call.args]
    return relax.Call(call.op, args, call.attrs)


def _concat(names: Names, builder: Builder, call: relax.Call) -> Any:
    fields = [names.channels_last(builder, a) for a in call.args[0].fields]
    return relax.op.concat(fields, axis=AXIS[axis_of(call)])


def _reduce(names: Names, builder: Builder, call: relax.Call) -> Any:
    axis = call.attrs["axis"]
    axes = [0, 1, 2, 3] if axis is None else [a % 4 for a in ints(axis)]
    keep = bool(call.attrs["keepdims"])
    if not keep and not _same_order([a for a in range(4) if a not in axes]):
        return None
    function = getattr(relax.op, name_of(call) or "")
    mapped = sorted(AXIS[a] for a in axes)
    return function(names.last[call.args[0]], axis=mapped, keepdims=keep)


def _softmax(names: Names, builder: Builder, call: relax.Call) -> Any:
    return relax.op.nn.softmax(names.last[call.args[0]], AXIS[axis_of(call)])


def _prelu(names: Names, builder: Builder, call: relax.Call) -> Any:
    axis = AXIS[int(call.attrs["axis"]) % 4]
    return relax.op.nn.prelu(names.last[call.args[0]], call.args[1], axis)


def _pool(names: Names, builder: Builder, call: relax.Call) -> Any:
    attrs = call.attrs
    if str(attrs["layout"]) != "NCHW":
        return None
    function = getattr(relax.op.nn, (name_of(call) or "").removeprefix("nn."))
    return function(
        names.channels_last(builder, call.args[0]),
        pool_size=ints(attrs["pool_size"]),
        strides=ints(attrs["strides"]),
        padding=ints(attrs["padding"]),
        dilation=ints(attrs["dilation"]),
        ceil_mode=bool(attrs["ceil_mode"]),
        count_include_pad=bool(attrs["count_include_pad"]),
        layout="NHWC",
    )


def _resize(names: Names, builder: Builder, call: relax.Call) -> Any:
    if str(call.attrs["layout"]) != "NCHW":
        return None
    return resized(call, names.last[call.args[0]], "NHWC")


def resized(call: relax.Call, image: relax.Expr, layout: str) -> relax.Call:
    """The same resize of an image in another layout."""
    attrs: dict[str, Any] = {key: call.attrs[key] for key in _RESIZE_ATTRS}
    attrs["roi"] = [float(getattr(v, "value", v)) for v in call.attrs["roi"]]
    return relax.op.image.resize2d(image, call.args[1], layout=layout, **attrs)


def _pad(names: Names, builder: Builder, call: relax.Call) -> Any:
    width = np.reshape(ints(call.attrs["pad_width"]), (4, 2))
    mode, value = str(call.attrs["pad_mode"]), float(call.attrs["pad_value"])
    flat = [int(v) for v in width[TO_LAST].reshape(-1)]
    return relax.op.nn.pad(names.last[call.args[0]], flat, mode, value)


def _strided_slice(names: Names, builder: Builder, call: relax.Call) -> Any:
    axes = relax.Tuple([tvm.tirx.IntImm("int64", AXIS[_int(a) % 4]) for a in call.args[1].fields])
    return relax.Call(call.op, [names.last[call.args[0]], axes, *call.args[2:]], call.attrs)


def _reshape(names: Names, builder: Builder, call: relax.Call) -> Any:
    # [N, C, 1, 1] lies in memory like [N, 1, 1, C].
    shape = shape_of(call.args[0])
    out = shape_of(call)
    if shape[2] * shape[3] != 1 or len(out) >= 4:
        return None
    return relax.op.reshape(names.last[call.args[0]], out)


def _squeeze(names: Names, builder: Builder, call: relax.Call) -> Any:
    shape = shape_of(call.args[0])
    axis = call.attrs["axis"]
    axes = [i for i in range(4) if shape[i] == 1] if axis is None else ints(axis)
    axes = [a % 4 for a in axes]
    if not _same_order([a for a in range(4) if a not in axes]):
        return None
    return relax.op.squeeze(names.last[call.args[0]], sorted(AXIS[a] for a in axes))


def _waist(names: Names, builder: Builder, call: relax.Call) -> Any:
    """Quantize and dequantize; a per-axis one moves its axis."""
    attrs = dict(call.attrs)
    if int(attrs.get("block_size", 0)):
        return None
    attrs["axis"] = AXIS[int(attrs.get("axis", 0)) % 4]
    node = tvm.ir.make_node("ir.DictAttrs", **attrs)
    return relax.Call(call.op, [names.last[call.args[0]], *call.args[1:]], node)


def _ohwi(builder: Builder, weight: Any) -> Any:
    value = const_value(weight)
    if value is not None:
        return relax.const(np.ascontiguousarray(value.transpose(TO_LAST)))
    inner = builder.value(weight)
    if name_of(inner) == "tvmquant.dequantize" and const_value(inner.args[0]) is not None:
        if not int(inner.attrs["block_size"]):
            attrs = {**dict(inner.attrs), "axis": AXIS[int(inner.attrs["axis"]) % 4]}
            q = relax.const(np.ascontiguousarray(const_value(inner.args[0]).transpose(TO_LAST)))
            node = tvm.ir.make_node("ir.DictAttrs", **attrs)
            return builder.emit(relax.Call(inner.op, [q, *inner.args[1:]], node), "weight")
    return builder.emit(relax.op.permute_dims(weight, TO_LAST), "weight")


def axis_of(call: relax.Call) -> int:
    """Axis of an operator on four, not negative; the first by default."""
    axis = call.attrs["axis"]
    return 0 if axis is None else int(axis) % 4


def _int(expr: Any) -> int:
    return int(getattr(expr, "value", expr))


def _same_order(kept: list[int]) -> bool:
    mapped = [AXIS[a] for a in kept]
    return mapped == sorted(mapped)


_RESIZE_ATTRS = (
    "method",
    "coordinate_transformation_mode",
    "rounding_method",
    "cubic_alpha",
    "cubic_exclude",
    "extrapolation_value",
    "out_dtype",
)
# Of operators that have a channels-last input.
FOLLOWING: dict[str, Callable[[Names, Builder, relax.Call], Any]] = {
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(_NARY, _nary),
    **dict.fromkeys(("mean", "sum", "max", "min"), _reduce),
    **dict.fromkeys(("tvmquant.quantize", "tvmquant.dequantize"), _waist),
    "where": _nary,
    "concat": _concat,
    "nn.softmax": _softmax,
    "nn.prelu": _prelu,
    "image.resize2d": _resize,
    "nn.pad": _pad,
    "strided_slice": _strided_slice,
    "reshape": _reshape,
    "squeeze": _squeeze,
}
# Of operators that are better off channels-last, whatever their input is.
LEADING: dict[str, Callable[[Names, Builder, relax.Call], Any]] = {
    "nn.conv2d": _conv2d,
    "nn.max_pool2d": _pool,
    "nn.avg_pool2d": _pool,
}
# Results whose 4-D shape is already in the original order.
FINAL = {"reshape", "squeeze", "permute_dims"}
