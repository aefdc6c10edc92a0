"""Channels-last through the whole network.

Every conv2d becomes NHWC with OHWI weights, every transposed convolution such a conv2d, every
pooling NHWC. The pass keeps, for each 4-D value, both names: the one in the original order (a
``permute_dims`` that dead-code elimination removes when nobody reads it) and the channels-last one,
which layout-agnostic operators are rewritten to. So permutations remain only at the borders of what
the pass understands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.graph import Builder, Graph, const_value, is_const, name_of, rewrite
from tvmquant.interpreter.float_ops import BINARY, UNARY, split_sections
from tvmquant.ops.dynamic import DYNAMIC_QUANTIZE
from tvmquant.ops.integer import ints, shape_of
from tvmquant.passes.conv_transpose import conv2d_transpose

TO_LAST = [0, 2, 3, 1]
TO_FIRST = [0, 3, 1, 2]
# Position of each original axis in the channels-last order.
AXIS = {0: 0, 1: 3, 2: 1, 3: 2}

_SAME = {*UNARY, "clip", "nn.leakyrelu", "astype"}
_NARY = {*BINARY, "divide"}
_POOLS = ("nn.max_pool2d", "nn.avg_pool2d")


class _Layout:
    def __init__(self, images: set[relax.Var]) -> None:
        self.images = images
        self.last: dict[relax.Var, Any] = {}
        self.tuples: dict[relax.Var, Any] = {}

    # -- the two names of a value ---------------------------------------------------------------
    def has(self, expr: Any) -> bool:
        return isinstance(expr, relax.Var) and expr in self.last

    def channels_last(self, builder: Builder, expr: Any, rank: int = 4) -> Any:
        """Channels-last name of ``expr``; constants are permuted, others get a permutation."""
        if self.has(expr):
            return self.last[expr]
        value = const_value(expr)
        if value is not None:
            if value.ndim == 0:
                return expr
            value = value.reshape((1,) * (rank - value.ndim) + value.shape)
            return relax.const(np.ascontiguousarray(value.transpose(TO_LAST)))
        source = builder.value(expr)
        if name_of(source) == "permute_dims" and _axes(source) == TO_FIRST:
            return source.args[0]
        var = builder.emit(relax.op.permute_dims(expr, TO_LAST), "to_nhwc")
        self.last[expr] = var
        return var

    def emit(self, builder: Builder, call: Any, name: str) -> Any:
        """Bind a channels-last result and return the permutation back to the original order."""
        var = builder.emit(call, name)
        back = builder.emit(relax.op.permute_dims(var, TO_FIRST), f"{name}/nchw")
        self.last[back] = var
        return back

    # -- rules ----------------------------------------------------------------------------------
    def visit(self, builder: Builder, var: relax.Var, value: Any) -> Any:
        if isinstance(value, relax.TupleGetItem):
            parts = self.tuples.get(value.tuple_value)
            if parts is None:
                return None
            item = builder.bb.normalize(relax.TupleGetItem(parts, value.index))
            return self.emit(builder, item, var.name) if len(shape_of(item)) == 4 else item
        name = name_of(value)
        if var in self.images:
            # One scale for all: the order of the values does not matter.
            x = self.channels_last(builder, value.args[0])
            parts = builder.emit(relax.Call(value.op, [x], value.attrs), var.name)
            self.tuples[parts] = parts
            return parts
        if name == "nn.conv2d" and str(value.attrs["data_layout"]) == "NCHW":
            return self.emit(builder, self._conv2d(builder, value), var.name)
        if name == "nn.conv2d_transpose":
            x = self.channels_last(builder, value.args[0])
            image = conv2d_transpose(builder, x, value, var.name)
            return None if image is None else self.emit(builder, image, f"{var.name}/crop")
        if name in _POOLS and str(value.attrs["layout"]) == "NCHW":
            return self.emit(builder, self.pool(builder, value), var.name)
        if name == "permute_dims" and self.has(value.args[0]):
            axes = [AXIS[a] for a in _axes(value)]
            source = self.last[value.args[0]]
            return source if axes == [0, 1, 2, 3] else relax.op.permute_dims(source, axes)
        first = next((a for a in _flat_args(value) if self.has(a)), None)
        if first is None or name is None:
            return None
        if name == "split":
            call = relax.op.split(
                self.last[value.args[0]], split_sections(value), AXIS[_axis(value)]
            )
            parts = builder.emit(call, f"{var.name}/nhwc")
            self.tuples[var] = parts
            # The original tuple stays for readers that want its order; unused, it disappears.
            kept = builder.emit(value, var.name)
            self.tuples[kept] = parts
            return kept
        rule = _RULES.get(name)
        out = rule(self, builder, value) if rule else None
        if out is None:
            return None
        if len(shape_of(builder.bb.normalize(out))) == 4 and name not in _FINAL:
            return self.emit(builder, out, var.name)
        return out

    def _conv2d(self, builder: Builder, call: relax.Call) -> relax.Call:
        x = self.channels_last(builder, call.args[0])
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

    def same(self, builder: Builder, call: relax.Call) -> Any:
        return relax.Call(call.op, [self.last[call.args[0]], *call.args[1:]], call.attrs)

    def nary(self, builder: Builder, call: relax.Call) -> Any:
        if any(not is_const(a) and len(shape_of(a)) not in (0, 4) for a in call.args):
            return None
        args = [self.channels_last(builder, a) if len(shape_of(a)) else a for a in call.args]
        return relax.Call(call.op, args, call.attrs)

    def where(self, builder: Builder, call: relax.Call) -> Any:
        return self.nary(builder, call)

    def concat(self, builder: Builder, call: relax.Call) -> Any:
        fields = [self.channels_last(builder, a) for a in call.args[0].fields]
        return relax.op.concat(fields, axis=AXIS[_axis(call)])

    def reduce(self, builder: Builder, call: relax.Call) -> Any:
        axis = call.attrs["axis"]
        axes = [0, 1, 2, 3] if axis is None else [a % 4 for a in ints(axis)]
        keep = bool(call.attrs["keepdims"])
        if not keep and not _same_order([a for a in range(4) if a not in axes]):
            return None
        function = getattr(relax.op, name_of(call) or "")
        mapped = sorted(AXIS[a] for a in axes)
        return function(self.last[call.args[0]], axis=mapped, keepdims=keep)

    def softmax(self, builder: Builder, call: relax.Call) -> Any:
        return relax.op.nn.softmax(self.last[call.args[0]], AXIS[_axis(call)])

    def prelu(self, builder: Builder, call: relax.Call) -> Any:
        axis = AXIS[int(call.attrs["axis"]) % 4]
        return relax.op.nn.prelu(self.last[call.args[0]], call.args[1], axis)

    def pool(self, builder: Builder, call: relax.Call) -> Any:
        attrs = call.attrs
        function = getattr(relax.op.nn, (name_of(call) or "").removeprefix("nn."))
        return function(
            self.channels_last(builder, call.args[0]),
            pool_size=ints(attrs["pool_size"]),
            strides=ints(attrs["strides"]),
            padding=ints(attrs["padding"]),
            dilation=ints(attrs["dilation"]),
            ceil_mode=bool(attrs["ceil_mode"]),
            count_include_pad=bool(attrs["count_include_pad"]),
            layout="NHWC",
        )

    def resize(self, builder: Builder, call: relax.Call) -> Any:
        if str(call.attrs["layout"]) != "NCHW":
            return None
        attrs: dict[str, Any] = {key: call.attrs[key] for key in _RESIZE_ATTRS}
        attrs["roi"] = [float(getattr(v, "value", v)) for v in call.attrs["roi"]]
        return relax.op.image.resize2d(
            self.last[call.args[0]], call.args[1], layout="NHWC", **attrs
        )

    def pad(self, builder: Builder, call: relax.Call) -> Any:
        width = np.reshape(ints(call.attrs["pad_width"]), (4, 2))
        mode, value = str(call.attrs["pad_mode"]), float(call.attrs["pad_value"])
        flat = [int(v) for v in width[TO_LAST].reshape(-1)]
        return relax.op.nn.pad(self.last[call.args[0]], flat, mode, value)

    def strided_slice(self, builder: Builder, call: relax.Call) -> Any:
        axes = relax.Tuple(
            [tvm.tirx.IntImm("int64", AXIS[_int(a) % 4]) for a in call.args[1].fields]
        )
        return relax.Call(call.op, [self.last[call.args[0]], axes, *call.args[2:]], call.attrs)

    def reshape(self, builder: Builder, call: relax.Call) -> Any:
        # [N, C, 1, 1] lies in memory like [N, 1, 1, C].
        shape = shape_of(call.args[0])
        out = shape_of(call)
        if shape[2] * shape[3] != 1 or len(out) > 4:
            return None
        if len(out) == 4:
            return None
        return relax.op.reshape(self.last[call.args[0]], out)

    def squeeze(self, builder: Builder, call: relax.Call) -> Any:
        shape = shape_of(call.args[0])
        axis = call.attrs["axis"]
        axes = [i for i in range(4) if shape[i] == 1] if axis is None else ints(axis)
        axes = [a % 4 for a in axes]
        if not _same_order([a for a in range(4) if a not in axes]):
            return None
        return relax.op.squeeze(self.last[call.args[0]], sorted(AXIS[a] for a in axes))

    def per_tensor(self, builder: Builder, call: relax.Call) -> Any:
        """Quantize and dequantize; a per-axis one moves its axis."""
        attrs = dict(call.attrs)
        if int(attrs.get("block_size", 0)):
            return None
        attrs["axis"] = AXIS[int(attrs.get("axis", 0)) % 4]
        node = tvm.ir.make_node("ir.DictAttrs", **attrs)
        return relax.Call(call.op, [self.last[call.args[0]], *call.args[1:]], node)


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


def _flat_args(value: Any) -> list:
    args = list(getattr(value, "args", []))
    return [item for a in args for item in (a.fields if isinstance(a, relax.Tuple) else [a])]


def _axes(call: relax.Call) -> list[int]:
    axes = call.attrs["axes"]
    rank = len(shape_of(call.args[0]))
    return list(range(rank))[::-1] if axes is None else [a % rank for a in ints(axes)]


def _axis(call: relax.Call) -> int:
    axis = call.attrs["axis"]
    return 0 if axis is None else int(axis) % 4


def _int(expr: Any) -> int:
    return int(getattr(expr, "value", expr))


def _same_order(kept: list[int]) -> bool:
    mapped = [AXIS[a] for a in kept]
    return mapped == sorted(mapped)


_RESIZE_ATTRS = (
    "roi",
    "method",
    "coordinate_transformation_mode",
    "rounding_method",
    "cubic_alpha",
    "cubic_exclude",
    "extrapolation_value",
)
_RULES: dict[str, Callable] = {
    **dict.fromkeys(_SAME, _Layout.same),
    **dict.fromkeys(_NARY, _Layout.nary),
    **dict.fromkeys(("mean", "sum", "max", "min"), _Layout.reduce),
    **dict.fromkeys(("tvmquant.quantize", "tvmquant.dequantize"), _Layout.per_tensor),
    "where": _Layout.where,
    "concat": _Layout.concat,
    "nn.softmax": _Layout.softmax,
    "nn.prelu": _Layout.prelu,
    "image.resize2d": _Layout.resize,
    "nn.pad": _Layout.pad,
    "strided_slice": _Layout.strided_slice,
    "reshape": _Layout.reshape,
    "squeeze": _Layout.squeeze,
}
# Results whose 4-D shape is already in the original order.
_FINAL = {"reshape", "squeeze", "permute_dims"}


def channels_last(mod: tvm.IRModule) -> tvm.IRModule:
    """Convert ``main`` to channels-last convolutions and whatever can follow them."""
    return rewrite(mod, _Layout(_dynamic_images(Graph(mod))).visit)


def _dynamic_images(graph: Graph) -> set[relax.Var]:
    """Tensors that are quantized at run time and read by convolutions."""
    found = set()
    for var, value in graph.bindings:
        if name_of(value) != DYNAMIC_QUANTIZE or bool(value.attrs["per_row"]):
            continue
        readers = [user for item in graph.users.get(var, ()) for user in graph.users.get(item, ())]
        layers = {name_of(graph.value(u)) for r in readers for u in graph.users.get(r, ())}
        if "nn.conv2d" in layers and len(shape_of(value.args[0])) == 4:
            found.add(var)
    return found
