"""Converters of float operators where TVM's own importer falls short.

TVM's converters bind a convolution under an invented name, write ``Clip``, ``Pad`` and variadic
``Max`` as opaque kernels, and pad ``SAME`` by a separate operator; the passes of tvmquant want
one named operator each. A converter takes a :class:`NodeView` and returns one expression.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from tvmquant.errors import UnsupportedOperatorError
from tvmquant.frontend.node import NodeView, constant_of, same_pads, shape_of
from tvmquant.frontend.qdq_converters import QDQ_CONVERTERS, transpose_weight

Converter = Callable[[NodeView], relax.Expr]

_CONV = (relax.op.nn.conv1d, relax.op.nn.conv2d, relax.op.nn.conv3d)
_SPATIAL = ("W", "HW", "DHW")


def from_tvm(node: NodeView) -> relax.Expr:
    """Convert with TVM's importer."""
    converter = onnx_frontend._get_convert_map()[node.proto.op_type].get_converter(node.opset)
    inputs = onnx_frontend.onnx_input(node.inputs)
    custom = {"name": node.name, "num_outputs": len(node.proto.output)}
    return converter(node.bb, inputs, {**node.attrs, "tvm_custom": custom}, [{}, {}])


def _conv(node: NodeView) -> relax.Expr:
    x, w = node.inputs[:2]
    spatial = len(shape_of(x)) - 2
    strides = node.attrs.get("strides", (1,) * spatial)
    dilations = node.attrs.get("dilations", (1,) * spatial)
    pads = list(node.attrs.get("pads", (0,) * (2 * spatial)))
    auto_pad = node.text("auto_pad", "NOTSET")
    if auto_pad.startswith("SAME"):
        upper = auto_pad == "SAME_UPPER"
        pads = same_pads(shape_of(x)[2:], shape_of(w)[2:], strides, dilations, upper)
    elif auto_pad == "VALID":
        pads = [0] * (2 * spatial)
    layout = _SPATIAL[spatial - 1]
    y = _CONV[spatial - 1](
        x,
        w,
        strides=list(strides),
        padding=pads,
        dilation=list(dilations),
        groups=node.attrs.get("group", 1),
        data_layout=f"NC{layout}",
        kernel_layout=f"OI{layout}",
    )
    return _with_bias(node, y, node.input(2), spatial)


def _conv_transpose(node: NodeView) -> relax.Expr:
    bias = node.input(2)
    y = from_tvm(replace(node, inputs=node.inputs[:2]))
    return _with_bias(node, y, bias, len(shape_of(node.inputs[0])) - 2)


def _with_bias(node: NodeView, y: relax.Expr, bias: relax.Expr | None, spatial: int) -> relax.Expr:
    if bias is None:
        return y
    value = constant_of(bias)
    shape = [1, -1, *[1] * spatial]
    if value is not None:
        bias = relax.const(value.reshape(shape))
    else:
        bias = node.emit(relax.op.reshape(bias, [1, shape_of(bias)[0], *[1] * spatial]), ".bias")
    return relax.op.add(node.emit(y), bias)


def _gemm(node: NodeView) -> relax.Expr:
    a, b, c = (node.input(i) for i in range(3))
    alpha, beta = node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0)
    if node.attrs.get("transA", 0):
        a = node.emit(relax.op.permute_dims(a, [1, 0]), ".transpose_a")
    if node.attrs.get("transB", 0):
        b = transpose_weight(node, b)
    y = node.emit(relax.op.matmul(a, b))
    if alpha != 1.0:
        y = node.emit(relax.op.multiply(y, relax.const(np.float32(alpha))), ".alpha")
    if c is None or beta == 0.0:
        return y
    value = constant_of(c)
    if value is not None:
        c = relax.const((value * np.float32(beta)).astype(value.dtype))
    elif beta != 1.0:
        c = node.emit(relax.op.multiply(c, relax.const(np.float32(beta))), ".beta")
    return relax.op.add(y, c)


def _batch_norm(node: NodeView) -> relax.Expr:
    if node.attrs.get("training_mode", 0) or sum(map(bool, node.proto.output)) > 1:
        raise UnsupportedOperatorError(
            f"node '{node.name}' (BatchNormalization) is in training mode: export the model in "
            "evaluation mode"
        )
    epsilon = node.attrs.get("epsilon", 1e-5)
    y = relax.op.nn.batch_norm(*node.inputs[:5], axis=1, epsilon=epsilon, training=False)
    return relax.TupleGetItem(node.emit(y, ".tuple"), 0)


def _layer_norm(node: NodeView) -> relax.Expr:
    if sum(map(bool, node.proto.output)) > 1:
        raise UnsupportedOperatorError(
            f"node '{node.name}' (LayerNormalization): its outputs Mean and InvStdDev are not "
            "supported"
        )
    x, gamma, beta = (node.input(i) for i in range(3))
    rank = len(shape_of(x))
    axes = list(range(node.attrs.get("axis", -1) % rank, rank))
    if beta is None:
        beta = relax.const(np.zeros(shape_of(gamma), np.float32))
    return relax.op.nn.layer_norm(x, gamma, beta, axes, node.attrs.get("epsilon", 1e-5))


def _clip(node: NodeView) -> relax.Expr:
    x = node.inputs[0]
    bounds = []
    for index, key in ((1, "min"), (2, "max")):
        value = constant_of(node.input(index))
        if node.input(index) is not None and value is None:
            return from_tvm(node)
        bounds.append(node.attrs.get(key) if value is None else value.item())
    low, high = (None if bound is None or np.isnan(bound) else bound for bound in bounds)
    if low is None and high is None:
        return x
    dtype = str(x.ty.dtype)
    if low == 0 and high is None:
        return relax.op.nn.relu(x)
    if low is None or high is None:
        fold = relax.op.minimum if low is None else relax.op.maximum
        return fold(x, relax.const(high if low is None else low, dtype))
    return relax.op.clip(x, low, high)


def _variadic(op: Callable[[relax.Expr, relax.Expr], relax.Expr]) -> Converter:
    return lambda node: functools.reduce(op, node.inputs)


def _mean(node: NodeView) -> relax.Expr:
    total = _variadic(relax.op.add)(node)
    return relax.op.divide(total, relax.const(np.float32(len(node.inputs))))


def _pad(node: NodeView) -> relax.Expr:
    rank = len(shape_of(node.inputs[0]))
    if node.opset < 11:
        pads, value, axes = node.attrs["pads"], node.attrs.get("value", 0.0), None
    else:
        arrays = [constant_of(node.input(i)) for i in (1, 2, 3)]
        if any(a is None and node.input(i) is not None for i, a in zip((1, 2, 3), arrays)):
            return from_tvm(node)
        pads, axes = arrays[0].tolist(), arrays[2]
        value = 0.0 if arrays[1] is None else arrays[1].item()
    if node.text("mode", "constant") != "constant" or min(pads) < 0:
        return from_tvm(node)
    axes = range(rank) if axes is None else [int(axis) % rank for axis in axes]
    widths = [0] * (2 * rank)
    for i, axis in enumerate(axes):
        widths[2 * axis], widths[2 * axis + 1] = int(pads[i]), int(pads[i + len(pads) // 2])
    return relax.op.nn.pad(node.inputs[0], widths, "constant", value)


def _softmax(node: NodeView) -> relax.Expr:
    rank = len(shape_of(node.inputs[0]))
    axis = node.attrs.get("axis", -1 if node.opset >= 13 else 1) % rank
    if node.opset < 13 and axis != rank - 1:
        return from_tvm(node)  # the old operator flattens everything from axis on
    return relax.op.nn.softmax(node.inputs[0], axis=axis)


def _cast(node: NodeView) -> relax.Expr:
    target = str(onnx.helper.tensor_dtype_to_np_dtype(node.attrs["to"]))
    if target in ("int32", "int64", "float32"):
        return relax.op.astype(node.inputs[0], target)
    return from_tvm(node)


def _gather(node: NodeView) -> relax.Expr:
    x, indices = node.inputs[:2]
    axis = node.attrs.get("axis", 0) % len(shape_of(x))
    extent = shape_of(x)[axis]
    value = constant_of(indices)
    if value is not None:
        indices = relax.const(np.where(value < 0, value + extent, value).astype(value.dtype))
    else:
        dtype = str(indices.ty.dtype)
        negative = node.emit(relax.op.less(indices, relax.const(0, dtype)), ".negative")
        wrapped = node.emit(relax.op.add(indices, relax.const(extent, dtype)), ".wrapped")
        indices = node.emit(relax.op.where(negative, wrapped, indices), ".indices")
    # "clip" keeps an index that is out of range from reading foreign memory.
    return relax.op.take(x, indices, axis, mode="clip")


def _prelu(node: NodeView) -> relax.Expr:
    x, slope = node.inputs[:2]
    value, rank = constant_of(slope), len(shape_of(x))
    if value is None or value.ndim > rank:
        return from_tvm(node)
    dims = [1] * (rank - value.ndim) + list(value.shape)
    wide = [axis for axis, dim in enumerate(dims) if dim != 1]
    if len(wide) > 1:
        return from_tvm(node)
    axis = wide[0] if wide else rank - 1
    return relax.op.nn.prelu(x, relax.const(value.reshape(-1)), axis)


def _resize(node: NodeView) -> relax.Expr:
    attrs, inputs = dict(node.attrs), list(node.inputs)
    if node.opset < 11:  # Resize(x, scales)
        inputs.insert(1, None)
        attrs.update(coordinate_transformation_mode=b"asymmetric", nearest_mode=b"floor")
    # Exporters write an absent input as an empty tensor.
    kept = [e if e is None or 0 not in shape_of(e) else None for e in inputs]
    return from_tvm(replace(node, inputs=kept, attrs=attrs))


def _average_pool(node: NodeView) -> relax.Expr:
    return _pool(node, "avg_pool")


def _max_pool(node: NodeView) -> relax.Expr:
    if sum(map(bool, node.proto.output)) > 1:
        raise UnsupportedOperatorError(
            f"node '{node.name}' (MaxPool): its output Indices is not supported"
        )
    return _pool(node, "max_pool")


def _pool(node: NodeView, name: str) -> relax.Expr:
    x = node.inputs[0]
    kernel = node.attrs["kernel_shape"]
    spatial = len(kernel)
    strides = node.attrs.get("strides", (1,) * spatial)
    dilations = node.attrs.get("dilations", (1,) * spatial)
    pads = list(node.attrs.get("pads", (0,) * (2 * spatial)))
    auto_pad = node.text("auto_pad", "NOTSET")
    if auto_pad.startswith("SAME"):
        pads = same_pads(shape_of(x)[2:], kernel, strides, dilations, auto_pad == "SAME_UPPER")
    elif auto_pad == "VALID":
        pads = [0] * (2 * spatial)
    op = getattr(relax.op.nn, f"{name}{spatial}d")
    return op(
        x,
        list(kernel),
        list(strides),
        pads,
        list(dilations),
        bool(node.attrs.get("ceil_mode", 0)),
        bool(node.attrs.get("count_include_pad", 0)),
    )


CONVERTERS: dict[str, Converter] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gather": _gather,
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "MatMul": lambda node: relax.op.matmul(node.inputs[0], node.inputs[1]),
    "Max": _variadic(relax.op.maximum),
    "MaxPool": _max_pool,
    "Mean": _mean,
    "Min": _variadic(relax.op.minimum),
    "Pad": _pad,
    "PRelu": _prelu,
    "Resize": _resize,
    "Softmax": _softmax,
    "Sum": _variadic(relax.op.add),
    **QDQ_CONVERTERS,
}
