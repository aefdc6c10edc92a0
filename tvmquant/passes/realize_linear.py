"""Integer convolutions and matmuls: weights, bias, zero-point correction, epilogue."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from tvmquant.graph import Builder, const_value, name_of
from tvmquant.ops import is_op, make_call
from tvmquant.ops.integer import ints, shape_of
from tvmquant.ops.waist import channel_bits
from tvmquant.passes.fold_affine import per_channel
from tvmquant.passes.quantized import Quantized, exact_flavour
from tvmquant.reference import make_requantize_params

LINEAR_OPS = ("tvmquant.conv2d", "tvmquant.matmul", "tvmquant.batch_matmul")
Known = dict[relax.Var, Quantized]
# Biases beyond this leave no room for the sum itself in int32.
BIAS_LIMIT = 2.0**30


def dequantized_weight(
    builder: Builder, expr: Any, axis: int
) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Signed 8-bit weights, their float64 scales (``[1]`` or ``[O]``) and bits.

    Weights with a zero point are accepted when moving them by it keeps them in int8.
    """
    node = builder.value(expr)
    if name_of(node) != "tvmquant.dequantize" or int(node.attrs["block_size"]):
        return None
    q, scale, zero = (const_value(arg) for arg in node.args)
    if q is None or scale is None or zero is None:
        return None
    if scale.size > 1 and int(node.attrs["axis"]) % q.ndim != axis:
        return None
    zero = zero.reshape(-1).astype(np.int64)
    if zero.size > 1:
        shape = [1] * q.ndim
        shape[axis] = -1
        zero = zero.reshape(shape)
    moved = q.astype(np.int64) - zero
    if moved.min(initial=0) < -128 or moved.max(initial=0) > 127:
        return None
    bits = min(int(node.attrs["bits"]), 8)
    low, high = int(moved.min(initial=0)), int(moved.max(initial=0))
    if bits == 1 and not np.all(np.abs(moved) == 1):
        bits = 2
    if bits > 1 and not -(2 ** (bits - 1)) <= low <= high < 2 ** (bits - 1):
        bits = 8
    return moved.astype(np.int8), scale.reshape(-1).astype(np.float64), bits


def _linear_call(
    op: str, x: Quantized, w: tuple[np.ndarray, np.ndarray, int], name: str, attrs: dict[str, Any]
) -> relax.Call:
    """Integer linear operator with float output; ``w`` has its output channel first."""
    weight, scale, bits = w
    correction = weight.reshape(weight.shape[0], -1).astype(np.int64).sum(1) * x.zero_point
    combined = np.broadcast_to(x.scale * scale, (weight.shape[0],))
    return make_call(
        op,
        [
            x.q,
            relax.const(weight),
            relax.const((-correction).astype(np.int32)),
            *map(relax.const, make_requantize_params(combined, "dequantize")),
        ],
        **attrs,
        x_bits=x.bits,
        w_bits=bits,
        x_zero_point=x.zero_point,
        requantize="dequantize",
        out_zero_point=0,
        out_min=0,
        out_max=255,
        name=name,
    )


def lower_conv2d(builder: Builder, known: Known, call: relax.Call, name: str) -> Any:
    """``conv2d(dequantize(x), dequantize(w))`` → ``tvmquant.conv2d``."""
    x = known.get(call.args[0])
    weights = dequantized_weight(builder, call.args[1], axis=0)
    if x is None or weights is None or str(call.attrs["data_layout"]) != "NHWC":
        return None
    attrs = {key: ints(call.attrs[key]) for key in ("strides", "padding", "dilation")}
    attrs |= {"groups": int(call.attrs["groups"]), **_widths(builder, call)}
    return _linear_call("tvmquant.conv2d", x, weights, name, attrs)


def lower_matmul(builder: Builder, known: Known, call: relax.Call, name: str) -> Any:
    """``matmul(dequantize(x), dequantize(w))`` with constant weights ``[K, O]``."""
    x = known.get(call.args[0])
    if x is None or len(shape_of(call.args[1])) != 2 or len(shape_of(call.args[0])) < 2:
        return None
    weights = dequantized_weight(builder, call.args[1], axis=1)
    if weights is None:
        return None
    q, scale, bits = weights
    turned = (np.ascontiguousarray(q.T), scale, bits)
    return _linear_call("tvmquant.matmul", x, turned, name, _widths(builder, call))


def _widths(builder: Builder, call: relax.Call) -> dict[str, list[int]]:
    """Attribute for ``split_widths`` of a layer whose channels have different bits."""
    widths = channel_bits(builder.value(call.args[1]))
    return {"channel_bits": widths} if widths else {}


def lower_bmm(builder: Builder, known: Known, call: relax.Call, name: str) -> Any:
    """Matmul of two quantized activations."""
    a, b = (known.get(arg) for arg in call.args)
    if a is None or b is None or min(len(shape_of(arg)) for arg in call.args) < 2:
        return None
    return make_call(
        "tvmquant.batch_matmul",
        [
            a.q,
            b.q,
            *map(relax.const, make_requantize_params(np.array([a.scale * b.scale]), "dequantize")),
        ],
        a_zero_point=a.zero_point,
        b_zero_point=b.zero_point,
        requantize="dequantize",
        out_zero_point=0,
        out_min=0,
        out_max=255,
        name=name,
    )


def fold_bias(builder: Builder, known: Known, call: relax.Call, name: str) -> Any:
    """``add(linear, bias)`` → the linear operator with an int32 bias."""
    linear = builder.value(call.args[0])
    if not is_op(linear, "tvmquant.conv2d", "tvmquant.matmul"):
        return None
    if str(linear.attrs["requantize"]) != "dequantize" or linear.attrs.get("biased", False):
        return None
    bias = _bias_values(builder, call.args[1], shape_of(call))
    if bias is None:
        return None
    x, w, correction, scale = linear.args
    weight, zero = const_value(w), const_value(correction).astype(np.int64)
    combined = const_value(scale).astype(np.float64)
    steps = np.broadcast_to(bias, combined.shape) / combined
    excess = np.maximum(np.abs(steps) / BIAS_LIMIT, 1.0)
    if np.any(excess > 1.0):
        # A channel whose weights are almost zero: coarser weights make room for its bias.
        factor = 2.0 ** np.ceil(np.log2(excess))
        if int(linear.attrs["w_bits"]) > 1:  # ±1 have no coarser form, and weigh nothing here
            shape = (-1,) + (1,) * (weight.ndim - 1)
            weight = np.rint(weight / factor.reshape(shape)).astype(np.int8)
        combined = combined * factor
        steps = steps / factor
        rows = weight.reshape(weight.shape[0], -1).astype(np.int64).sum(1)
        zero = -rows * int(linear.attrs["x_zero_point"])
    total = np.clip(np.rint(steps) + zero, -(2.0**31), 2.0**31 - 1).astype(np.int32)
    return make_call(
        str(linear.op.name),
        [
            x,
            relax.const(weight),
            relax.const(total),
            *map(relax.const, make_requantize_params(combined, "dequantize")),
        ],
        **{**dict(linear.attrs), "biased": True},
    )


def fold_scale(builder: Builder, call: relax.Call) -> Any:
    """``multiply(linear, positive constant)`` → the linear operator with other scales."""
    x, factor = call.args
    linear = builder.value(x)
    if not is_op(linear, *LINEAR_OPS) or str(linear.attrs["requantize"]) != "dequantize":
        return None
    scale = per_channel(factor, shape_of(call))
    if scale is None or np.any(scale <= 0) or builder.uses.get(x, 1) != 1:
        return None
    if scale.size > 1 and is_op(linear, "tvmquant.batch_matmul"):
        return None
    combined = const_value(linear.args[-1]).astype(np.float64) * scale
    params = map(relax.const, make_requantize_params(combined, "dequantize"))
    return make_call(str(linear.op.name), [*linear.args[:-1], *params], **dict(linear.attrs))


def _bias_values(builder: Builder, expr: Any, shape: list[int]) -> np.ndarray | None:
    """Float64 bias ``[1]`` or ``[O]`` of a constant or a dequantized int32 constant."""
    node = builder.value(expr)
    if name_of(node) == "reshape":
        node = builder.value(node.args[0])
    if name_of(node) == "tvmquant.dequantize":
        q, scale, zero = (const_value(arg) for arg in node.args)
        if q is None or scale is None or q.size not in (1, shape[-1]) or np.any(zero):
            return None
        return (q.astype(np.float64).reshape(-1)) * scale.astype(np.float64).reshape(-1)
    values = per_channel(expr, shape)
    return None if values is None else values.astype(np.float64)


def requantized(linear: relax.Call, out: Quantized, flavour: str) -> relax.Call:
    """The integer-output form of a linear operator that so far dequantizes."""
    combined = const_value(linear.args[-1]).astype(np.float64)
    multiplier = combined / np.float64(np.float32(out.scale))
    flavour = exact_flavour(multiplier, flavour)
    attrs = {
        **dict(linear.attrs),
        "requantize": flavour,
        "out_zero_point": out.zero_point,
        "out_min": out.qmin,
        "out_max": out.qmax,
    }
    params = map(relax.const, make_requantize_params(multiplier, flavour))
    return make_call(str(linear.op.name), [*linear.args[:-1], *params], **attrs)
