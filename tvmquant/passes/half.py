"""Weights as float16: half the file, computed in float32."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.graph import Builder, const_value, name_of, rewrite
from tvmquant.ops.half import half_to_float
from tvmquant.passes.fold_affine import is_linear
from tvmquant.recipe import Recipe
from tvmquant.reference.half import float_to_half


class HalfPrecisionWarning(UserWarning):
    """Weights do not fit float16 and stay float32."""


def store_half(mod: tvm.IRModule, recipe: Recipe) -> tvm.IRModule:
    """Round the weights of the layers that ask for 16 bits, and tables of embeddings.

    Layers with weights beyond float16 stay as they are, with a :class:`HalfPrecisionWarning`.

    Parameters
    ----------
    mod : tvm.IRModule
        A simplified graph.
    recipe : Recipe
        Says which layers.
    """

    def visit(builder: Builder, var: relax.Var, value: Any) -> Any:
        if not recipe.bits_for(var.name).half:
            return None
        if is_linear(value):
            bits = _rounded(value.args[1], var.name)
            if bits is None:
                return None
            weight = builder.emit(half_to_float(bits), f"{var.name}/weight")
            return relax.Call(value.op, [value.args[0], weight], value.attrs)
        if name_of(value) == "take" and const_value(value.args[0]) is not None:
            bits = _rounded(value.args[0], var.name)
            if bits is None:
                return None
            call = relax.Call(value.op, [bits, *value.args[1:]], value.attrs)
            return half_to_float(builder.emit(call, f"{var.name}/half"))
        return None

    return rewrite(mod, visit)


def _rounded(weight: Any, name: str) -> Any:
    """Constant of the half-precision bits, ``None`` if they cannot represent the weights."""
    values = const_value(weight)
    if values.dtype != np.float32 or values.ndim < 2:
        return None
    bits = float_to_half(values)
    if bits is None:
        warnings.warn(
            f"layer {name}: its weights go up to {np.abs(values).max():g}, float16 ends at 65504; "
            "they stay float32",
            HalfPrecisionWarning,
            stacklevel=2,
        )
        return None
    return relax.const(np.ascontiguousarray(bits))
