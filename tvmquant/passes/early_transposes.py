"""A transposition of an enlarged image becomes one of the small image.

Networks that end in a bilinear resize (segmentation) give channels first. In one loop with the
resize every element would be gathered by itself from channels-last memory.
"""

from __future__ import annotations

from math import prod
from typing import Any

import tvm
from tvm import relax

from tvmquant.graph import Builder, Graph, name_of, rewrite
from tvmquant.ops.integer import ints, shape_of
from tvmquant.passes.layout_rules import resized

_TO_FIRST = [0, 3, 1, 2]
# Elementwise operators of one tensor that may stand between the resize and the transposition.
_BETWEEN = {"sigmoid", "nn.relu", "clip", "tanh", "exp", "nn.silu", "nn.gelu"}


def early_transposes(mod: tvm.IRModule) -> tvm.IRModule:
    """Transpose to channels first before an enlarging linear resize, not behind it.

    Parameters
    ----------
    mod : tvm.IRModule
        In channels-last layout, of any stage from ``realize`` to ``pack``.

    Returns
    -------
    tvm.IRModule
        The same values; only what no other operator reads is moved.
    """
    graph = Graph(mod)
    depths = {var: depth for var, value in graph.bindings if (depth := _depth(graph, value))}
    if not depths:
        return mod

    def visit(builder: Builder, var: relax.Var, value: Any) -> Any:
        return _moved(builder, value, depths[var]) if var in depths else None

    return rewrite(mod, visit)


def _depth(graph: Graph, value: Any) -> int:
    """Calls from a transposition back to its resize, 0 if that is not the pattern."""
    if name_of(value) != "permute_dims" or ints(value.attrs["axes"] or []) != _TO_FIRST:
        return 0
    depth, call = 0, value
    while True:
        source = call.args[0]
        call = graph.value(source)
        depth += 1
        if not isinstance(call, relax.Call) or graph.num_uses(source) != 1:
            return 0
        if name_of(call) == "image.resize2d":
            return depth if _grows(call) else 0
        if name_of(call) not in _BETWEEN:
            return 0


def _moved(builder: Builder, value: relax.Call, depth: int) -> relax.Expr:
    calls = []
    for _ in range(depth):
        value = builder.value(value.args[0])
        calls.append(value)
    *between, resize = calls
    small = builder.emit(relax.op.permute_dims(resize.args[0], _TO_FIRST), "nchw")
    y = resized(resize, small, "NCHW")
    for call in reversed(between):
        y = relax.Call(call.op, [builder.emit(y, "nchw"), *call.args[1:]], call.attrs)
    return y


def _grows(call: relax.Call) -> bool:
    linear = str(call.attrs["method"]) == "linear" and str(call.attrs["layout"]) == "NHWC"
    return linear and prod(shape_of(call)) >= prod(shape_of(call.args[0]))
