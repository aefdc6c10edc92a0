"""Merge operators that only move values, and drop those that do nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.graph import Builder, name_of, rewrite
from tvmquant.ops.integer import ints, shape_of
from tvmquant.passes.axis_maps import AxisMap

VIEWS = ("reshape", "expand_dims", "squeeze", "flatten")


def merge_moves(mod: tvm.IRModule) -> tvm.IRModule:
    """Chains of reshapes and permutations become one of each; identities disappear.

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
        if kind != "permute_dims" and kind not in VIEWS:
            return None
        merged = _one_permutation(builder, value)
        if merged is not None:
            return merged
        if kind == "permute_dims":
            return _permutation(builder, value)
        return _view(builder, value.args[0], shape_of(value))

    return rewrite(mod, visit)


def _one_permutation(builder: Builder, call: relax.Call) -> Any:
    """Several permutations with reshapes between them as one, ``None`` if they stay as they are."""
    chain, x = [call], call.args[0]
    while True:
        source = builder.value(x)
        if name_of(source) not in (*VIEWS, "permute_dims") or builder.uses.get(x, 1) != 1:
            break
        chain.append(source)
        x = source.args[0]
    permutations = sum(name_of(step) == "permute_dims" for step in chain)
    if permutations < 2 or permutations == len(chain):
        return None
    axes = AxisMap(shape_of(x))
    for step in reversed(chain):
        if name_of(step) == "permute_dims":
            axes.permute(_axes(step))
        elif not axes.reshape(shape_of(step)):
            return None
    shape, order = axes.permutation()
    if order == sorted(order):
        return _view(builder, x, shape_of(call))
    name = x.name if isinstance(x, relax.Var) else "moved"
    if shape_of(x) != shape:
        x = builder.emit(_view(builder, x, shape), f"{name}/split")
    moved = relax.op.permute_dims(x, order)
    if [shape[axis] for axis in order] == shape_of(call):
        return moved
    return relax.op.reshape(builder.emit(moved, f"{name}/moved"), shape_of(call))


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
