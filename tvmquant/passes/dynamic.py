"""Dynamic quantization at the waist: layers read activations that are quantized at run time.

Before each layer the tensor is quantized by its own range, after it everything is float; so no
data is needed. Layers of one tensor share its integers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.calibration import quantize_weight
from tvmquant.graph import Builder, Graph, const_value, name_of, rewrite
from tvmquant.ops import is_op
from tvmquant.ops.dynamic import DYNAMIC_QUANTIZE, dynamic_quantize
from tvmquant.ops.integer import shape_of
from tvmquant.ops.waist import dequantize
from tvmquant.passes.fold_affine import is_linear
from tvmquant.passes.regions import Regions
from tvmquant.quant_spec import WEIGHT_ESTIMATOR
from tvmquant.recipe import Recipe

# Layers whose accumulators could exceed int32 stay float.
_LARGEST_SUM = 2**31


def quantize_dynamically(mod: tvm.IRModule, recipe: Recipe) -> tvm.IRModule:
    """Insert ``dynamic_quantize`` and ``dequantize`` nodes before the layers of a float graph.

    Depthwise convolutions stay float: quantizing their input costs more than they do.

    Parameters
    ----------
    mod : tvm.IRModule
        A simplified graph.
    recipe : Recipe
        With the activation estimator ``dynamic``; otherwise nothing changes.
    """
    if not recipe.dynamic:
        return mod
    return rewrite(mod, _Quantizer(mod, recipe).visit)


class _Quantizer:
    def __init__(self, mod: tvm.IRModule, recipe: Recipe) -> None:
        self.recipe = recipe
        static = replace(recipe.activations, estimator="minmax", granularity="per_tensor")
        regions = Regions(mod, replace(recipe, activations=static))
        first, last = regions.layer_order()
        self.ends = {var.name for var in (*first, *last)}
        self.layers = {var.name for var in regions.weighted}
        self.made: dict[tuple[relax.Var, int, bool], relax.Var] = {}

    def visit(self, builder: Builder, var: relax.Var, value: Any) -> Any:
        if var.name not in self.layers or not is_linear(value):
            return None
        x = value.args[0]
        bits = self.recipe.bits_for(var.name, first_or_last=var.name in self.ends)
        is_matmul = name_of(value) == "matmul"
        if not isinstance(x, relax.Var) or len(shape_of(x)) < 2 or _is_depthwise(value):
            return None
        weight = const_value(value.args[1])
        axis = 1 if is_matmul else 0
        q, scale = quantize_weight(
            weight,
            bits=bits.weight_bits,
            axis=axis,
            granularity=self.recipe.weights.granularity,
            estimator=self._weight_estimator(bits.weight_bits),
        )
        if not fits_int32(np.moveaxis(q, axis, 0)):
            return None
        per_row = is_matmul and self.recipe.activations.granularity == "per_row"
        dynamic = self._activation(builder, x, bits.activation_bits, per_row)
        zero = np.zeros(scale.shape, np.int8)
        constants = (relax.const(array) for array in (q, scale, zero))
        node = dequantize(*constants, bits=bits.weight_bits, axis=axis)
        w = builder.emit(node, f"{var.name}/weight")
        return relax.Call(value.op, [dynamic, w], value.attrs)

    def _weight_estimator(self, bits: int) -> str:
        spec = self.recipe.weights
        if bits == spec.bits:
            return spec.estimator
        return WEIGHT_ESTIMATOR if bits == 8 else "mse"

    def _activation(self, builder: Builder, x: relax.Var, bits: int, per_row: bool) -> relax.Var:
        key = (x, bits, per_row)
        if key not in self.made:
            symmetric = self.recipe.activations.symmetric
            call = dynamic_quantize(x, bits=bits, per_row=per_row, symmetric=symmetric)
            made = builder.emit(call, f"{x.name}/dynamic")
            parts = [
                builder.emit(relax.TupleGetItem(made, i), f"{x.name}/{name}")
                for i, name in enumerate(("int", "scale", "zero_point"))
            ]
            shape = shape_of(x)
            blocks = {"axis": len(shape) - 1, "block_size": shape[-1]} if per_row else {}
            self.made[key] = builder.emit(dequantize(*parts, bits=bits, **blocks), f"{x.name}/q")
        return self.made[key]


def is_dynamic(mod: tvm.IRModule) -> bool:
    """Whether a graph quantizes activations at run time."""
    return any(is_op(value, DYNAMIC_QUANTIZE) for _, value in Graph(mod).bindings)


def fits_int32(weight: np.ndarray) -> bool:
    """Whether no uint8 activations can make the sums of integer weights ``[O, ...]`` overflow."""
    rows = np.abs(weight.reshape(weight.shape[0], -1).astype(np.int64)).sum(1)
    return int(rows.max(initial=0)) * 255 < _LARGEST_SUM


def _is_depthwise(call: relax.Call) -> bool:
    groups = int(call.attrs["groups"]) if name_of(call) == "nn.conv2d" else 1
    return groups > 1 and groups == shape_of(call.args[0])[3]
