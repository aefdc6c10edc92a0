"""One canonical form per operator, so that every later pass knows one pattern only.

1-D convolutions become 2-D ones, batch norm an affine map, subtraction and division by constants
addition and multiplication, global pooling a mean. (Transposed convolutions become convolutions in
``layout``.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.graph import Builder, const_value, name_of, rewrite
from tvmquant.interpreter.float_ops import split_sections
from tvmquant.ops.integer import ints, shape_of


def canonicalize(mod: tvm.IRModule) -> tvm.IRModule:
    """Rewrite ``main`` to canonical operators (float semantics unchanged up to rounding)."""

    def visit(builder: Builder, var: relax.Var, value: Any) -> Any:
        if isinstance(value, relax.TupleGetItem):
            return _tuple_item(builder, value)
        rule = RULES.get(name_of(value) or "")
        return rule(builder, value, var.name) if rule else None

    return rewrite(mod, visit)


def _tuple_item(builder: Builder, value: relax.TupleGetItem) -> Any:
    source = builder.value(value.tuple_value)
    if name_of(source) == "nn.batch_norm" and value.index == 0:
        return _batch_norm(builder, source)
    if isinstance(source, relax.Tuple):
        return source.fields[value.index]
    return None


def _batch_norm(builder: Builder, call: relax.Call) -> Any:
    x = call.args[0]
    arrays = [const_value(arg) for arg in call.args[1:]]
    if any(a is None for a in arrays):
        return None
    gamma, beta, mean, var = (a.astype(np.float64) for a in arrays)
    scale = 1 / np.sqrt(var + float(call.attrs["epsilon"]))
    if call.attrs["scale"]:
        scale = scale * gamma
    shift = -mean * scale
    if call.attrs["center"]:
        shift = shift + beta
    shape = [1] * len(shape_of(x))
    shape[int(call.attrs["axis"])] = -1
    scaled = builder.emit(relax.op.multiply(x, _float(scale.reshape(shape))), "bn_scale")
    return relax.op.add(scaled, _float(shift.reshape(shape)))


def _float(array: np.ndarray) -> Any:
    return relax.const(np.asarray(array, np.float32))


def _subtract(builder: Builder, call: relax.Call, _name: str) -> Any:
    a, b = call.args
    value = const_value(b)
    if value is not None and value.dtype == np.float32:
        return relax.op.add(a, _float(-value))
    value = const_value(a)
    if value is not None and value.dtype == np.float32:
        negated = builder.emit(relax.op.multiply(b, _float(np.float32(-1))), "negated")
        return relax.op.add(negated, a)
    return None


def _divide(_builder: Builder, call: relax.Call, _name: str) -> Any:
    a, b = call.args
    value = const_value(b)
    if value is None or value.dtype != np.float32 or not np.all(value):
        return None
    return relax.op.multiply(a, _float((1 / value.astype(np.float64)).astype(np.float32)))


def _commute(function: Callable) -> Callable:
    """Constants go to the right."""

    def rule(_builder: Builder, call: relax.Call, _name: str) -> Any:
        a, b = call.args
        if const_value(a) is not None and const_value(b) is None:
            return function(b, a)
        return None

    return rule


def _bound(function: Callable, low: bool) -> Callable:
    """``max(x, c)`` and ``min(x, c)`` with a scalar are one-sided clips."""

    def rule(builder: Builder, call: relax.Call, _name: str) -> Any:
        a, b = call.args
        if const_value(a) is not None:
            a, b = b, a
        value = const_value(b)
        if value is None or value.size != 1 or value.dtype != np.float32:
            return None
        bound = float(value.reshape(()))
        if low and bound == 0:
            out = relax.op.nn.relu(a)
        else:
            out = relax.op.clip(a, bound, np.inf) if low else relax.op.clip(a, -np.inf, bound)
        shape = shape_of(a)
        return out if len(shape) >= value.ndim else relax.op.reshape(out, shape_of(call))

    return rule


def _as_image(function: Callable, kernel_layout: str) -> Callable:
    """A one-dimensional convolution is the two-dimensional ``function`` on images of height 1."""

    def rule(builder: Builder, call: relax.Call, name: str) -> Any:
        x, w = call.args
        attrs = call.attrs
        if str(attrs["data_layout"]) != "NCW" or str(attrs["kernel_layout"]) != kernel_layout:
            return None
        left, right = ints(attrs["padding"])
        image = builder.emit(relax.op.expand_dims(x, 2), f"{name}/image")
        weight = const_value(w)
        if weight is not None:
            kernel: Any = relax.const(weight[:, :, None, :])
        else:
            kernel = builder.emit(expand_weight(builder, w, 2), f"{name}/weight")
        more = {}
        if function is relax.op.nn.conv2d_transpose:
            more["output_padding"] = [0, ints(attrs["output_padding"])[0]]
        out = function(
            image,
            kernel,
            strides=[1, ints(attrs["strides"])[0]],
            padding=[0, left, 0, right],
            dilation=[1, ints(attrs["dilation"])[0]],
            groups=int(attrs["groups"]),
            **more,
        )
        return relax.op.squeeze(builder.emit(out, name), [2])

    return rule


def _matmul(builder: Builder, call: relax.Call, name: str) -> Any:
    """Vectors become matrices of one row or column."""
    a, b = call.args
    ranks = len(shape_of(a)), len(shape_of(b))
    if min(ranks) != 1:
        return None
    if ranks[0] == 1:
        a = builder.emit(relax.op.expand_dims(a, 0), f"{name}/row")
    if ranks[1] == 1:
        value = const_value(b)
        b = (
            builder.emit(relax.op.expand_dims(b, 1), f"{name}/column")
            if value is None
            else relax.const(value[:, None])
        )
    y = builder.emit(relax.op.matmul(a, b), name)
    return relax.op.reshape(y, shape_of(call))


def expand_weight(builder: Builder, weight: Any, axis: int) -> Any:
    """Insert an axis into a weight, below its dequantize node if it has one."""
    inner = builder.value(weight)
    if name_of(inner) == "tvmquant.dequantize" and const_value(inner.args[0]) is not None:
        if int(inner.attrs["axis"]) < axis and not int(inner.attrs["block_size"]):
            q = relax.const(np.expand_dims(const_value(inner.args[0]), axis))
            return relax.Call(inner.op, [q, *inner.args[1:]], inner.attrs)
    return relax.op.expand_dims(weight, axis)


def _pool1d(function: Callable) -> Callable:
    def rule(builder: Builder, call: relax.Call, name: str) -> Any:
        attrs = call.attrs
        if str(attrs["layout"]) != "NCW":
            return None
        left, right = ints(attrs["padding"])
        image = builder.emit(relax.op.expand_dims(call.args[0], 2), f"{name}/image")
        out = function(
            image,
            pool_size=[1, ints(attrs["pool_size"])[0]],
            strides=[1, ints(attrs["strides"])[0]],
            padding=[0, left, 0, right],
            dilation=[1, ints(attrs["dilation"])[0]],
            ceil_mode=bool(attrs["ceil_mode"]),
            count_include_pad=bool(attrs["count_include_pad"]),
        )
        return relax.op.squeeze(builder.emit(out, name), [2])

    return rule


def _adaptive_avg_pool(spatial: int) -> Callable:
    def rule(_builder: Builder, call: relax.Call, _name: str) -> Any:
        size = call.attrs["output_size"]
        if size is None or any(v != 1 for v in ints(size)):
            return None
        layout = str(call.attrs["layout"])
        axes = [layout.index(letter) for letter in "DHW" if letter in layout]
        return relax.op.mean(call.args[0], axis=axes[-spatial:], keepdims=True)

    return rule


def _avg_pool2d(_builder: Builder, call: relax.Call, _name: str) -> Any:
    """A window that covers the whole map is a mean."""
    attrs = call.attrs
    shape = shape_of(call.args[0])
    layout = str(attrs["layout"])
    axes = [layout.index("H"), layout.index("W")]
    whole = [shape[a] for a in axes] == ints(attrs["pool_size"]) and not any(ints(attrs["padding"]))
    if whole and shape_of(call)[axes[0]] == shape_of(call)[axes[1]] == 1:
        return relax.op.mean(call.args[0], axis=axes, keepdims=True)
    return None


def _split(_builder: Builder, call: relax.Call, _name: str) -> Any:
    return call.args[0] if split_sections(call) == 1 else None


RULES: dict[str, Callable[[Builder, relax.Call, str], Any]] = {
    "subtract": _subtract,
    "divide": _divide,
    "add": _commute(relax.op.add),
    "multiply": _commute(relax.op.multiply),
    "maximum": _bound(relax.op.maximum, low=True),
    "minimum": _bound(relax.op.minimum, low=False),
    "split": _split,
    "matmul": _matmul,
    "nn.conv1d": _as_image(relax.op.nn.conv2d, "OIW"),
    "nn.conv1d_transpose": _as_image(relax.op.nn.conv2d_transpose, "IOW"),
    "nn.max_pool1d": _pool1d(relax.op.nn.max_pool2d),
    "nn.avg_pool1d": _pool1d(relax.op.nn.avg_pool2d),
    "nn.adaptive_avg_pool1d": _adaptive_avg_pool(1),
    "nn.adaptive_avg_pool2d": _adaptive_avg_pool(2),
    "nn.avg_pool2d": _avg_pool2d,
    "nn.dropout": lambda builder, call, name: relax.Tuple([call.args[0], call.args[0]]),
}
