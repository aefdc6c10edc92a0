"""Layers of activations that are quantized at run time, in integers.

The accumulator of an ordinary integer kernel goes to ``tvmquant.dynamic_rescale``, a light
operator that fuses with what follows. Zero points reach the kernel as numbers that it reads anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from tvmquant.graph import Builder, const_value, name_of
from tvmquant.ops import is_op, make_call
from tvmquant.ops.dynamic import DYNAMIC_CONV2D, DYNAMIC_QUANTIZE, DYNAMIC_RESCALE, dynamic_rescale
from tvmquant.ops.integer import ints, shape_of
from tvmquant.passes.dynamic import fits_int32
from tvmquant.passes.fold_affine import per_channel
from tvmquant.passes.realize_linear import dequantized_weight


@dataclass(frozen=True)
class _Activation:
    """A uint8 tensor and what its integers mean at run time; ``scale`` may be a constant."""

    q: Any
    scale: Any
    zero_point: Any
    bits: int


def _activation(builder: Builder, expr: Any) -> _Activation | None:
    """Operands of a dequantize node of something quantized at run time."""
    node = builder.value(expr)
    if name_of(node) != "tvmquant.dequantize":
        return None
    q, scale, zero_point = node.args
    source = builder.value(q)
    if not isinstance(source, relax.TupleGetItem):
        return None
    made = builder.value(source.tuple_value)
    if not is_op(made, DYNAMIC_QUANTIZE) or source.index != 0:
        return None
    if const_value(zero_point) is not None:
        return None
    return _Activation(q, scale, zero_point, int(made.attrs["bits"]))


def lower_dynamic(builder: Builder, call: relax.Call, name: str) -> Any:
    """Convolution or matrix product of a dynamically quantized tensor and constant weights."""
    x = _activation(builder, call.args[0])
    is_conv = name_of(call) == "nn.conv2d"
    if x is None or (is_conv and str(call.attrs["data_layout"]) != "NHWC"):
        return None
    if not is_conv and (len(shape_of(call.args[1])) != 2 or len(shape_of(call.args[0])) < 2):
        return None
    weights = dequantized_weight(builder, call.args[1], axis=0 if is_conv else 1)
    if weights is None:
        return None
    weight, w_scale, w_bits = weights
    weight = weight if is_conv else np.ascontiguousarray(weight.T)
    if not fits_int32(weight):
        return None
    bits = {"x_bits": x.bits, "w_bits": w_bits, "name": name}
    if is_conv:
        attrs = {key: ints(call.attrs[key]) for key in ("strides", "padding", "dilation")}
        attrs["groups"] = int(call.attrs["groups"])
        args = [x.q, relax.const(weight), x.zero_point]
        accumulator = make_call(DYNAMIC_CONV2D, args, **attrs, **bits)
    else:
        accumulator = make_call(
            "tvmquant.matmul",
            [x.q, relax.const(weight), relax.const(np.zeros(len(weight), np.int32))],
            **bits,
            x_zero_point=0,
            requantize="none",
            out_zero_point=0,
            out_min=0,
            out_max=255,
        )
    acc = builder.emit(accumulator, f"{name}/sums")
    sums = weight.reshape(len(weight), -1).astype(np.int64).sum(1).astype(np.int32)
    scales = np.broadcast_to(w_scale, (len(weight),)).astype(np.float32)
    return dynamic_rescale(
        acc,
        x.zero_point,
        relax.const(sums),
        x.scale,
        relax.const(scales),
        relax.const(np.zeros(len(weight), np.float32)),
    )


def fold_dynamic_bias(builder: Builder, call: relax.Call) -> Any:
    """``add(dynamic layer, constant)`` → the layer with a bias."""
    x = call.args[0]
    layer = builder.value(x)
    if not is_op(layer, DYNAMIC_RESCALE) or len(layer.args) < 6 or builder.uses.get(x, 1) != 1:
        return None
    bias = per_channel(call.args[1], shape_of(call))
    old = const_value(layer.args[5])
    if bias is None or np.any(old) or shape_of(x) != shape_of(call):
        return None
    full = np.ascontiguousarray(np.broadcast_to(bias, old.shape), np.float32)
    return dynamic_rescale(*layer.args[:5], relax.const(full))


def dynamic_accumulator(builder: Builder, call: relax.Call) -> Any:
    """``astype(int32)`` of an exact product (``MatMulInteger``, ``ConvInteger``)."""
    layer = builder.value(call.args[0])
    if not is_op(layer, DYNAMIC_RESCALE) or len(layer.args) < 6:
        return None
    scale, w_scale, bias = map(const_value, layer.args[3:])
    if scale is None or not (np.all(scale == 1) and np.all(w_scale == 1)) or np.any(bias):
        return None
    return dynamic_rescale(*layer.args[:3])
