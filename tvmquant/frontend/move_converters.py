"""Converters of operators that only move values: padding, resizing, splitting, looking up."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from onnx import NodeProto
from tvm import relax

from tvmquant.errors import ModelError, UnsupportedOperatorError
from tvmquant.frontend.from_tvm import from_tvm
from tvmquant.frontend.node import NodeView, constant_of, shape_of
from tvmquant.frontend.resize import convert_resize

_PAD_MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _pad(node: NodeView) -> relax.Expr:
    rank = len(shape_of(node.inputs[0]))
    if node.opset < 11:
        pads, value, axes = node.attrs["pads"], node.attrs.get("value", 0.0), None
    else:
        arrays = [constant_of(node.input(i)) for i in (1, 2, 3)]
        if any(a is None and node.input(i) is not None for i, a in zip((1, 2, 3), arrays)):
            raise ModelError(
                f"node '{node.name}' (Pad): how much it pads must be known when the model is "
                "compiled, but it is computed from the data"
            )
        pads, axes = arrays[0].tolist(), arrays[2]
        value = 0.0 if arrays[1] is None else arrays[1].item()
    mode = node.text("mode", "constant")
    if min(pads) < 0:
        return from_tvm(node)
    axes = range(rank) if axes is None else [int(axis) % rank for axis in axes]
    widths = [0] * (2 * rank)
    for i, axis in enumerate(axes):
        widths[2 * axis], widths[2 * axis + 1] = int(pads[i]), int(pads[i + len(pads) // 2])
    if mode == "constant":
        return relax.op.nn.pad(node.inputs[0], widths, "constant", value)
    _require_narrow(node, mode, widths)
    return relax.op.nn.pad(node.inputs[0], widths, _PAD_MODES[mode])


def _require_narrow(node: NodeView, mode: str, widths: list[int]) -> None:
    """A mirrored or wrapped border must come from one copy of the tensor."""
    for axis, size in enumerate(shape_of(node.inputs[0])):
        width = max(widths[2 * axis : 2 * axis + 2])
        if width > {"reflect": size - 1, "wrap": size}.get(mode, width):
            raise UnsupportedOperatorError(
                f"node '{node.name}' (Pad, {mode}) pads axis {axis} of length {size} by {width}: "
                "more than one copy of the tensor is not supported"
            )


def _gather(node: NodeView) -> relax.Expr:
    x, indices = node.inputs[:2]
    axis = node.attrs.get("axis", 0) % len(shape_of(x))
    extent = shape_of(x)[axis]
    value = constant_of(indices)
    if value is not None:
        indices = relax.const(np.where(value < 0, value + extent, value).astype(value.dtype))
    else:
        indices = _wrapped(node, indices, extent)
    # "clip" keeps an index that is out of range from reading foreign memory.
    return relax.op.take(x, indices, axis, mode="clip")


def _wrapped(node: NodeView, indices: relax.Expr, extent: int) -> relax.Expr:
    """Indices with ``extent`` added to the negative ones."""
    dtype = str(indices.ty.dtype)
    negative = node.emit(relax.op.less(indices, relax.const(0, dtype)), ".negative")
    wrapped = node.emit(relax.op.add(indices, relax.const(extent, dtype)), ".wrapped")
    return node.emit(relax.op.where(negative, wrapped, indices), ".indices")


def _one_hot(node: NodeView) -> relax.Expr:
    indices = node.inputs[0]
    depth, values = constant_of(node.input(1)), constant_of(node.input(2))
    if depth is None or values is None:
        raise ModelError(
            f"node '{node.name}' (OneHot): its depth and values must be constants, but they are "
            "computed from the data"
        )
    extent, rank = int(depth.reshape(-1)[0]), len(shape_of(indices)) + 1
    axis = node.attrs.get("axis", -1) % rank
    if str(indices.ty.dtype) != "int64":
        indices = node.emit(relax.op.astype(indices, "int64"), ".int64")
    indices = _wrapped(node, indices, extent)
    indices = node.emit(relax.op.expand_dims(indices, axis), ".column")
    classes = np.arange(extent).reshape([-1 if i == axis else 1 for i in range(rank)])
    hit = node.emit(relax.op.equal(indices, relax.const(classes)), ".hit")
    off, on = (relax.const(value, str(values.dtype)) for value in values)
    return relax.op.where(hit, on, off)


def _split(node: NodeView) -> relax.Expr:
    x, count = node.inputs[0], len(node.proto.output)
    axis = node.attrs.get("axis", 0) % len(shape_of(x))
    size = shape_of(x)[axis]
    sizes = node.attrs.get("split")
    if node.input(1) is not None:
        given = constant_of(node.input(1))
        if given is None:
            raise ModelError(
                f"node '{node.name}' (Split): the sizes of its parts must be constants, but they "
                "are computed from the data"
            )
        sizes = given.tolist()
    if sizes is None:  # equal parts, the last one smaller
        part = math.ceil(size / node.attrs.get("num_outputs", count))
        sizes = [max(min(part, size - part * i), 0) for i in range(count)]
    if len(sizes) == 1:
        return x
    return relax.op.split(x, np.cumsum(sizes)[:-1].tolist(), axis)


def _upsample(node: NodeView) -> relax.Expr:
    inputs, attrs = list(node.inputs), dict(node.attrs)
    if "scales" in attrs:  # before opset 9
        inputs.append(relax.const(np.array(attrs.pop("scales"), np.float32)))
    proto = NodeProto()
    proto.CopyFrom(node.proto)
    proto.op_type = "Resize"  # of opset 10, which took its place
    return convert_resize(replace(node, proto=proto, inputs=inputs, attrs=attrs, opset=10))


MOVE_CONVERTERS = {
    "Gather": _gather,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Resize": convert_resize,
    "Split": _split,
    "Upsample": _upsample,
}
