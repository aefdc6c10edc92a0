"""Fold per-channel multiplications and additions into the convolution or matmul before them.

Batch norms (already affine after ``canonicalize``) and learned scales disappear here; what stays
is ``linear`` or ``add(linear, bias)``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.graph import Builder, const_value, is_const, name_of, rewrite
from tvmquant.ops.integer import shape_of


def fold_affine(mod: tvm.IRModule) -> tvm.IRModule:
    """Fold ``multiply`` and ``add`` by per-channel constants (channels-last graph)."""

    def visit(builder: Builder, var: relax.Var, value: Any) -> Any:
        name = name_of(value)
        if name not in ("multiply", "add"):
            return None
        x, c = value.args
        constant = per_channel(c, shape_of(value))
        if constant is None or not isinstance(x, relax.Var) or builder.uses.get(x, 1) != 1:
            return None
        if shape_of(x) != shape_of(value):
            return None
        source = builder.value(x)
        if name == "add":
            if name_of(source) == "add":
                inner = per_channel(source.args[1], shape_of(source))
                if inner is not None and is_linear(builder.value(source.args[0])):
                    return relax.op.add(source.args[0], relax.const(inner + constant))
            return None
        if is_linear(source):
            # The layer keeps its own name: recipes and profiles refer to it.
            return builder.emit(_scaled(source, constant), x.name, supersede=True)
        if name_of(source) == "add" and is_linear(builder.value(source.args[0])):
            inner = per_channel(source.args[1], shape_of(source))
            linear = source.args[0]
            if inner is None or builder.uses.get(linear, 1) != 1:
                return None
            scaled = _scaled(builder.value(linear), constant)
            new = builder.emit(scaled, linear.name, supersede=True)
            return relax.op.add(new, relax.const(inner * constant))
        return None

    return rewrite(mod, visit)


def is_linear(value: Any) -> bool:
    """Whether ``value`` is a channels-last conv2d or a matmul with a float weight constant."""
    name = name_of(value)
    if name == "nn.conv2d":
        return str(value.attrs["data_layout"]) == "NHWC" and is_const(value.args[1])
    if name == "matmul":
        return is_const(value.args[1]) and len(shape_of(value.args[1])) == 2
    return False


def per_channel(expr: Any, shape: list[int]) -> np.ndarray | None:
    """Float constant that varies along the last axis only, as ``[1]`` or ``[C]``."""
    value = const_value(expr)
    if value is None or value.dtype != np.float32:
        return None
    if value.size == 1:
        return value.reshape(1)
    if value.ndim <= len(shape) and value.size == value.shape[-1] == shape[-1]:
        return value.reshape(-1)
    return None


def _scaled(linear: relax.Call, scale: np.ndarray) -> Any:
    weight = const_value(linear.args[1])
    if name_of(linear) == "nn.conv2d":
        new = weight * scale.reshape(-1, 1, 1, 1)
    else:
        new = weight * scale
    args = [linear.args[0], relax.const(new.astype(np.float32))]
    return relax.Call(linear.op, args, linear.attrs)
