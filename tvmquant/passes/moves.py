"""Merge operators that only move values, and drop those that do nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.graph import Builder, name_of, rewrite
from tvmquant.ops.integer import ints, shape_of

VIEWS = ("reshape", "expand_dims", "squeeze", "flatten")


def merge_moves(mod: tvm.IRModule) -> tvm.IRModule:
    """Chains of reshapes become one, as do chains of permutations; identities disappear.

    A permutation that only moves axes of length 1 is a reshape, and a reshape costs nothing.
    """

    def visit(builder: Builder, var: relax.Var, value: Any) -> Any:
        kind = name_of(value)
        if kind == "strided_slice":
            return (
                value.args[0]
                if shape_of(value) == shape_of(value.args[0]) and _forward(value)
                else None
            )
        if kind == "permute_dims":
            return _permutation(builder, value)
        if kind in VIEWS:
            return _view(builder, value.args[0], shape_of(value))
        return None

    return rewrite(mod, visit)


def _view(builder: Builder, x: Any, shape: list[int]) -> Any:
    source = builder.value(x)
    while name_of(source) in VIEWS:
        x = source.args[0]
        source = builder.value(x)
    return x if shape_of(x) == shape else relax.op.reshape(x, shape)


def _permutation(builder: Builder, call: relax.Call) -> Any:
    x, axes = call.args[0], _axes(call)
    source = builder.value(x)
    if name_of(source) == "permute_dims":
        inner = _axes(source)
        x, axes = source.args[0], [inner[a] for a in axes]
    shape = shape_of(x)
    if axes == sorted(axes):
        return x
    moved = [a for a in axes if shape[a] != 1]
    if moved == sorted(moved):
        return _view(builder, x, [shape[a] for a in axes])
    return relax.op.permute_dims(x, axes)


def _axes(call: relax.Call) -> list[int]:
    rank = len(shape_of(call.args[0]))
    axes = call.attrs["axes"]
    return list(range(rank))[::-1] if axes is None else [a % rank for a in ints(axes)]


def _forward(call: relax.Call) -> bool:
    """Whether every stride of a slice is positive: then an equal shape means the whole tensor."""
    if len(call.args) < 5:
        return True
    return bool(np.all([int(getattr(v, "value", v)) > 0 for v in call.args[4].fields]))
