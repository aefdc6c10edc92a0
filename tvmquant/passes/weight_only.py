"""Layers whose activations stay float: quantize their weights, then realize the products.

:func:`quantize_weights` works at the QDQ waist: a weight constant becomes ``dequantize`` of blocked
integers, which is what an imported model has there, too. :func:`lower_weight_only` turns the
matrix product of such a weight into ``tvmquant.weight_only_matmul``. Only matrix products are
served; convolutions with float activations stay float.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.calibration import quantize_weight
from tvmquant.graph import Builder, const_value, name_of, rewrite
from tvmquant.ops import is_op
from tvmquant.ops.integer import shape_of
from tvmquant.ops.waist import dequantize
from tvmquant.ops.weight_only import WEIGHT_ONLY, weight_only_matmul
from tvmquant.passes.fold_affine import is_linear, per_channel
from tvmquant.quant_spec import WEIGHT_ESTIMATOR
from tvmquant.recipe import Recipe

# Weights that are quantized at a time: the search for their scales passes over them many times.
_PIECE = 1 << 17


def quantize_weights(mod: tvm.IRModule, recipe: Recipe) -> tvm.IRModule:
    """Quantize the weights of the matrix products that keep float activations.

    Parameters
    ----------
    mod : tvm.IRModule
        A simplified graph; layers whose weights are no constants any more are left alone.
    recipe : Recipe
        Says which layers, how many bits, and how many weights share a scale.
    """

    def visit(builder: Builder, var: relax.Var, value: Any) -> Any:
        if name_of(value) != "matmul" or not is_linear(value):
            return None
        layer = recipe.bits_for(var.name)
        weight = const_value(value.args[1])
        if not layer.weight_only or layer.half or weight.dtype != np.float32:
            return None
        node = _quantized(weight, layer.weight_bits, recipe)
        w = builder.emit(node, f"{var.name}/weight")
        return relax.Call(value.op, [value.args[0], w], value.attrs)

    return rewrite(mod, visit)


def _quantized(weight: np.ndarray, bits: int, recipe: Recipe) -> relax.Call:
    """``dequantize`` node of a weight ``[K, N]``, blocked along ``K``."""
    depth, outputs = weight.shape
    spec = recipe.weights
    if bits != spec.bits:
        estimator = WEIGHT_ESTIMATOR if bits == 8 else "mse"
    else:
        estimator = spec.estimator
    size = recipe.group_size or depth
    if size >= depth and spec.granularity == "per_tensor":
        q, scale = quantize_weight(
            weight, bits=bits, axis=1, granularity="per_tensor", estimator=estimator
        )
        scale, size = np.broadcast_to(scale, (1, outputs)), depth
    else:
        size = min(size, depth)
        groups = -(-depth // size)
        padded = np.pad(weight, ((0, groups * size - depth), (0, 0)))
        rows = padded.reshape(groups, size, outputs).transpose(0, 2, 1).reshape(-1, size)
        q, scale = _quantize_rows(rows, bits, estimator)
        q = q.reshape(groups, outputs, size).transpose(0, 2, 1).reshape(-1, outputs)[:depth]
        scale = scale.reshape(groups, outputs)
    zero = np.zeros(scale.shape, np.int8)
    constants = (relax.const(np.ascontiguousarray(a)) for a in (q, scale, zero))
    return dequantize(*constants, bits=bits, axis=0, block_size=size)


def _quantize_rows(rows: np.ndarray, bits: int, estimator: str) -> tuple[np.ndarray, np.ndarray]:
    """One scale a row, as :func:`quantize_weight`, in pieces that stay in the cache."""
    count = max(1, _PIECE // rows.shape[1])
    pieces = [
        quantize_weight(rows[i : i + count], bits=bits, axis=0, estimator=estimator)
        for i in range(0, len(rows), count)
    ]
    q, scale = zip(*pieces)
    return np.concatenate(q), np.concatenate(scale)


def lower_weight_only(builder: Builder, call: relax.Call, name: str) -> Any:
    """``matmul(x, dequantize(constant))`` → ``tvmquant.weight_only_matmul``."""
    x = call.args[0]
    node = builder.value(call.args[1])
    if not is_op(node, "tvmquant.dequantize") or len(shape_of(x)) < 2:
        return None
    if str(x.ty.dtype) != "float32":
        return None
    q, scale, zero = (const_value(arg) for arg in node.args)
    if q is None or scale is None or zero is None or q.ndim != 2:
        return None
    attrs = node.attrs
    stored = _stored_weights(q, zero)
    if stored is None:
        return None
    w, zero, bits = stored
    depth, outputs = q.shape
    axis, block = int(attrs["axis"]) % 2, int(attrs["block_size"])
    spread = [_groups(array, depth, outputs, axis, block) for array in (scale, zero)]
    if any(array is None for array in spread):
        return None
    scale, zero = spread
    groups = max(scale.shape[0], zero.shape[0])
    scale, zero = (np.broadcast_to(array, (groups, outputs)).T for array in (scale, zero))
    zeros = [relax.const(np.ascontiguousarray(zero))] if np.any(zero) else []
    return weight_only_matmul(
        x,
        relax.const(np.ascontiguousarray(w.T)),
        relax.const(np.ascontiguousarray(scale)),
        relax.const(np.zeros(outputs, np.float32)),
        *zeros,
        bits=bits,
        group_size=block if groups > 1 else depth,
        name=name,
    )


def _stored_weights(q: np.ndarray, zero: np.ndarray) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Weights and zero points moved to signed storage, and the fewest bits that hold them."""
    if q.dtype not in (np.int8, np.uint8):
        return None
    low, high = int(q.min(initial=0)), int(q.max(initial=0))
    for bits in (2, 4, 8):
        half = 2 ** (bits - 1)
        offset = half if q.dtype == np.uint8 else 0
        if -half <= low - offset and high - offset < half:
            break
    point = zero.astype(np.int64) - offset
    if point.min(initial=0) < -128 or point.max(initial=0) > 127:
        return None
    return (q.astype(np.int64) - offset).astype(np.int8), point.astype(np.int8), bits


def _groups(
    array: np.ndarray, depth: int, outputs: int, axis: int, block: int
) -> np.ndarray | None:
    """Scale or zero point of a dequantize node as ``[groups, N]``, ``None`` if it has none."""
    if array.size == 1:
        return array.reshape(1, 1)
    if array.ndim == 1:
        return array.reshape(1, -1) if axis == 1 else None
    if axis == 0 and block and array.shape == (-(-depth // block), outputs):
        return array
    # One block a channel, written as a matrix.
    return array if array.shape == (1, outputs) else None


def fold_weight_only_bias(builder: Builder, call: relax.Call) -> Any:
    """``add(weight_only_matmul, constant)`` → the product with a bias."""
    x = call.args[0]
    layer = builder.value(x)
    if not is_op(layer, WEIGHT_ONLY) or builder.uses.get(x, 1) != 1:
        return None
    bias = per_channel(call.args[1], shape_of(call))
    if bias is None or shape_of(x) != shape_of(call):
        return None
    args = list(layer.args)
    args[3] = relax.const(const_value(args[3]) + bias)
    return relax.Call(layer.op, args, layer.attrs)
