"""Add a constant to the outputs of layers, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.graph import Builder, Graph, const_value, name_of, rewrite
from tvmquant.ops.integer import shape_of
from tvmquant.passes.fold_affine import per_channel


def shift_biases(mod: tvm.IRModule, shifts: Mapping[str, np.ndarray]) -> tvm.IRModule:
    """Add ``[channels]`` to the output of each named layer; a bias that is there takes it."""
    graph = Graph(mod)
    biased: dict[relax.Var, np.ndarray] = {}
    bare: dict[relax.Var, np.ndarray] = {}
    for var, _ in graph.bindings:
        if var.name in shifts:
            bias = bias_after(graph, var)
            target = bare if bias is None else biased
            target[var if bias is None else bias] = shifts[var.name]

    def visit(builder: Builder, var: relax.Var, value: Any) -> Any:
        if var in biased:
            bias = const_value(value.args[1]).reshape(-1)
            total = (bias + biased[var]).astype(np.float32)
            return relax.op.add(value.args[0], relax.const(total))
        if var in bare:
            layer = builder.emit(value, var.name)
            return relax.op.add(layer, relax.const(bare[var].astype(np.float32)))
        return None

    return rewrite(mod, visit)


def bias_after(graph: Graph, layer: relax.Var) -> relax.Var | None:
    """The addition of a layer's bias, when nothing else reads the layer's output."""
    users = graph.users.get(layer, [])
    if len(users) != 1 or graph.num_uses(layer) != 1:
        return None
    value = graph.values[users[0]]
    if name_of(value) != "add" or not value.args[0].same_as(layer):
        return None
    return users[0] if per_channel(value.args[1], shape_of(value)) is not None else None
