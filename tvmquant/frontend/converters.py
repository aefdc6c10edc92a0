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

from tvmquant.errors import UnsupportedOperatorError
from tvmquant.frontend.from_tvm import from_tvm
from tvmquant.frontend.move_converters import MOVE_CONVERTERS
from tvmquant.frontend.node import NodeView, constant_of, same_pads, shape_of
from tvmquant.frontend.pool_converters import POOL_CONVERTERS
from tvmquant.frontend.qdq_converters import QDQ_CONVERTERS, transpose_weight

Converter = Callable[[NodeView], relax.Expr]

_CONV = (relax.op.nn.conv1d, relax.op.nn.conv2d, relax.op.nn.conv3d)
_SPATIAL = ("W", "HW", "DHW")


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
    x, w, bias = node.inputs[0], node.inputs[1], node.input(2)
    spatial = len(shape_of(x)) - 2
    attrs = dict(node.attrs)
    wanted = attrs.pop("output_shape", ())[-spatial:]
    if wanted:
        upper = attrs.pop("auto_pad", b"NOTSET") == b"SAME_UPPER"
        strides, dilations = attrs.get("strides", (1,) * spatial), attrs.get("dilations")
        starts, ends, extra = [], [], list(attrs.get("output_padding", (0,) * spatial))
        for i, (size, k, out) in enumerate(zip(shape_of(x)[2:], shape_of(w)[2:], wanted)):
            reach = (k - 1) * (dilations[i] if dilations else 1) + 1
            cut = (size - 1) * strides[i] + reach + extra[i] - out
            extra[i] += max(-cut, 0)
            small = max(cut, 0) // 2
            starts.append(small if upper else max(cut, 0) - small)
            ends.append(max(cut, 0) - starts[-1])
        attrs.update(pads=tuple(starts + ends), output_padding=tuple(extra))
    y = from_tvm(replace(node, inputs=node.inputs[:2], attrs=attrs))
    return _with_bias(node, y, bias, spatial)


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


def _rms_norm(node: NodeView) -> relax.Expr:
    x, scale = node.inputs[:2]
    rank = len(shape_of(x))
    if node.attrs.get("axis", -1) % rank:
        return from_tvm(node)
    # TVM's operator fails where no axis is left.
    mean = node.emit(relax.op.mean(node.emit(relax.op.multiply(x, x), ".squares")), ".mean")
    epsilon = relax.const(node.attrs.get("epsilon", 1e-5), "float32")
    root = node.emit(relax.op.rsqrt(node.emit(relax.op.add(mean, epsilon), ".sum")), ".rsqrt")
    return relax.op.multiply(node.emit(relax.op.multiply(x, root), ".normal"), scale)


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


def _pow(node: NodeView) -> relax.Expr:
    """The result has the type of the base, whatever the exponent's."""
    x, y = node.inputs[:2]
    base = str(x.ty.dtype)
    if base.startswith("float"):
        return relax.op.power(x, _typed(node, y, base, ".exponent"))
    # Integers have no power of their own; float64 holds 53 bits of them.
    wide = [_typed(node, v, "float64", k) for v, k in ((x, ".base"), (y, ".exponent"))]
    return relax.op.astype(node.emit(relax.op.power(*wide), ".power"), base)


def _typed(node: NodeView, x: relax.Expr, dtype: str, suffix: str) -> relax.Expr:
    value = constant_of(x)
    if value is not None:
        return relax.const(value.astype(dtype), dtype)
    return x if str(x.ty.dtype) == dtype else node.emit(relax.op.astype(x, dtype), suffix)


def _is_inf(node: NodeView) -> relax.Expr:
    x = node.inputs[0]
    signs = [node.attrs.get(key, 1) for key in ("detect_positive", "detect_negative")]
    if all(signs):
        return relax.op.isinf(x)
    bound = np.inf if signs[0] else -np.inf if signs[1] else np.nan  # nothing equals NaN
    return relax.op.equal(x, relax.const(bound, str(x.ty.dtype)))


def _dropout(node: NodeView) -> relax.Expr:
    x, training = node.inputs[0], constant_of(node.input(2))
    if node.input(2) is not None and (training is None or training.any()):
        raise UnsupportedOperatorError(
            f"node '{node.name}' (Dropout) is in training mode: export the model in evaluation mode"
        )
    if len(node.proto.output) == 1:
        return x
    return relax.Tuple([x, relax.const(np.ones(shape_of(x), bool))])


def _space_to_depth(node: NodeView) -> relax.Expr:
    if node.text("mode", "DCR") != "DCR":
        raise UnsupportedOperatorError(
            f"node '{node.name}' (SpaceToDepth): only mode 'DCR' is supported"
        )
    return from_tvm(node)


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


CONVERTERS: dict[str, Converter] = {
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Dropout": _dropout,
    "Gemm": _gemm,
    "IsInf": _is_inf,
    "LayerNormalization": _layer_norm,
    "MatMul": lambda node: relax.op.matmul(node.inputs[0], node.inputs[1]),
    "Max": _variadic(relax.op.maximum),
    "Mean": _mean,
    "Min": _variadic(relax.op.minimum),
    "Pow": _pow,
    "PRelu": _prelu,
    "RMSNormalization": _rms_norm,
    "Softmax": _softmax,
    "SpaceToDepth": _space_to_depth,
    "Sum": _variadic(relax.op.add),
    **MOVE_CONVERTERS,
    **POOL_CONVERTERS,
    **QDQ_CONVERTERS,
}
