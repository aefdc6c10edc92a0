"""Which tensors have the same channels in the same order, and another order for them.

Two tensors of a simplified float graph share a *space* when channel ``c`` of the one meets channel
``c`` of the other and no other: before and after a ReLU, on both sides of a residual addition. A
space whose channels only dense layers make and only dense layers mix may be put in any order: the
network computes the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.graph import Builder, Graph, const_value, is_const, name_of, operands, rewrite
from tvmquant.ops.integer import ints, shape_of
from tvmquant.passes.fold_affine import is_linear
from tvmquant.passes.tables import TABULAR

_ELEMENTWISE = {*TABULAR, "add", "subtract", "multiply", "divide", "maximum", "minimum"}
_POOLS = {"nn.max_pool2d", "nn.avg_pool2d"}
_REDUCTIONS = {"mean", "sum", "max", "min"}
_RESHAPES = {"reshape", "flatten", "expand_dims", "squeeze"}


def is_dense(value: Any) -> bool:
    """Whether ``value`` is a layer that mixes all its input channels."""
    if not is_linear(value):
        return False
    return name_of(value) == "matmul" or int(value.attrs["groups"]) == 1


def _is_depthwise(value: Any) -> bool:
    if not is_linear(value) or name_of(value) == "matmul":
        return False
    outputs, _, _, inputs = shape_of(value.args[1])
    return inputs == 1 and int(value.attrs["groups"]) == outputs > 1


class ChannelSpaces:
    """The spaces of a simplified float graph.

    Parameters
    ----------
    mod : tvm.IRModule
        Output of ``simplify``: channels last.
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        self.graph = Graph(mod)
        self._parent: dict[relax.Var, relax.Var] = {}
        self._pinned: set[relax.Var] = set()
        for var in self.graph.params:
            self._pin(var)
        for var, value in self.graph.bindings:
            self._visit(var, value)
        for var in self.graph.output_vars:
            self._pin(var)

    def space(self, var: relax.Var) -> relax.Var:
        """The variable that stands for the space of ``var``."""
        while var in self._parent:
            var = self._parent[var]
        return var

    def is_free(self, var: relax.Var) -> bool:
        """Whether the channels of ``var`` may be put in any order."""
        return self.space(var) not in self._pinned

    def _pin(self, *variables: relax.Var) -> None:
        self._pinned.update(self.space(var) for var in variables)

    def _join(self, a: relax.Var, b: relax.Var) -> None:
        a, b = self.space(a), self.space(b)
        if not a.same_as(b):
            self._parent[a] = b
            if a in self._pinned:
                self._pinned.add(b)

    def _visit(self, var: relax.Var, value: Any) -> None:
        if is_dense(value):
            return
        sources = list(operands(value))
        if sources and self._keeps_channels(value):
            for source in sources:
                self._join(source, var)
        else:
            self._pin(var, *sources)

    def _keeps_channels(self, value: Any) -> bool:
        if not isinstance(value, relax.Call) or not isinstance(value.ty, relax.TensorType):
            return False
        name, sources = name_of(value), list(operands(value))
        if any(not isinstance(s.ty, relax.TensorType) or not shape_of(s) for s in sources):
            return False
        shape = shape_of(value)
        if not shape or any(shape_of(s)[-1] != shape[-1] for s in sources):
            return False
        if name in _ELEMENTWISE:
            return all(_is_channel_constant(a, shape[-1]) for a in value.args if is_const(a))
        if name in _POOLS:
            return str(value.attrs["layout"]) == "NHWC"
        if name in _REDUCTIONS:
            rank, axes = len(shape_of(sources[0])), value.attrs["axis"]
            return axes is not None and all(a % rank != rank - 1 for a in ints(axes))
        return name in _RESHAPES or _is_depthwise(value)


def _is_channel_constant(arg: Any, channels: int) -> bool:
    value = const_value(arg)
    return value.size == 1 or value.size == value.shape[-1] == channels


def reorder(
    mod: tvm.IRModule, spaces: ChannelSpaces, orders: Mapping[relax.Var, np.ndarray]
) -> tvm.IRModule:
    """Put the channels of spaces into another order.

    Parameters
    ----------
    mod : tvm.IRModule
        The module that ``spaces`` describes.
    spaces : ChannelSpaces
    orders : mapping
        Free space → for every new position the old channel.

    Returns
    -------
    tvm.IRModule
        Equal to ``mod`` up to the order of its sums.
    """
    if not orders:
        return mod

    def order_of(var: Any) -> np.ndarray | None:
        return orders.get(spaces.space(var)) if isinstance(var, relax.Var) else None

    def visit(_builder: Builder, var: relax.Var, value: Any) -> Any:
        if not isinstance(value, relax.Call):
            return None
        own = order_of(var)
        old = spaces.graph.values[var]
        if is_linear(value):
            weight = const_value(value.args[1])
            read = order_of(old.args[0]) if is_dense(value) else None
            outputs = 0 if name_of(value) == "nn.conv2d" else 1
            inputs = -1 if outputs == 0 else 0
            if read is not None:
                weight = np.take(weight, read, inputs)
            if own is not None:
                weight = np.take(weight, own, outputs)
            if read is None and own is None:
                return None
            new = relax.const(np.ascontiguousarray(weight))
            return relax.Call(value.op, [value.args[0], new], value.attrs)
        if own is None or not any(_varies(arg) for arg in value.args):
            return None
        args = [
            relax.const(np.take(const_value(arg), own, -1)) if _varies(arg) else arg
            for arg in value.args
        ]
        return relax.Call(value.op, args, value.attrs)

    return rewrite(mod, visit)


def _varies(arg: Any) -> bool:
    return is_const(arg) and const_value(arg).size > 1
