"""The view that a converter has of the ONNX node it converts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from onnx import NodeProto
from tvm import relax


@dataclass
class NodeView:
    """One node with its inputs in Relax.

    Attributes
    ----------
    proto : onnx.NodeProto
    inputs : list of relax.Expr or None
        ``None`` for an absent optional input.
    attrs : dict
        Attributes; strings are ``bytes``, lists are tuples.
    opset : int
        Version of the default operator set.
    elem_types : dict of str to int
        ONNX element type of the values of the graph.
    bb : relax.BlockBuilder
        A binding made with it directly has a name of TVM's; use :meth:`emit`.
    """

    proto: NodeProto
    inputs: list[relax.Expr | None]
    attrs: dict[str, Any]
    opset: int
    elem_types: dict[str, int]
    bb: relax.BlockBuilder

    @property
    def name(self) -> str:
        """Layer name: recipes refer to it."""
        return self.proto.name

    def input(self, index: int) -> relax.Expr | None:
        """Input by position, ``None`` when absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    def elem_type(self, index: int) -> int | None:
        """ONNX element type of an input."""
        return self.elem_types.get(self.proto.input[index])

    def text(self, attribute: str, default: str) -> str:
        """Attribute that is a string."""
        return self.attrs.get(attribute, default.encode()).decode()

    def emit(self, expr: relax.Expr, suffix: str = "") -> relax.Var:
        """Bind ``expr`` to a variable called like the node (plus ``suffix``)."""
        return emit(self.bb, expr, self.name + suffix)


def emit(bb: relax.BlockBuilder, expr: relax.Expr, name: str) -> relax.Var:
    """Bind ``expr`` to a variable with exactly this name.

    ``BlockBuilder.emit`` would make the name unique and replace its dots; Relax itself tells
    variables apart by identity, so that a layer can keep its name.
    """
    expr = bb.normalize(expr)
    var = relax.DataflowVar(name, expr.ty)
    bb.emit_normalized(relax.VarBinding(var, expr))
    return var


def shape_of(expr: relax.Expr) -> list[int]:
    """Static shape of a Relax expression."""
    return [int(dim) for dim in expr.ty.shape.values]


def constant_of(expr: relax.Expr | None) -> np.ndarray | None:
    """Value of a constant expression, ``None`` for anything else."""
    return expr.value.numpy() if isinstance(expr, tvm.ir.GenericConst) else None


def same_pads(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    upper: bool,
) -> list[int]:
    """Padding of ``auto_pad=SAME_*``: all starts, then all ends; ``ceil(size/stride)`` outputs."""
    starts, ends = [], []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations):
        out = -(-size // stride)
        total = max((out - 1) * stride + (k - 1) * dilation + 1 - size, 0)
        small = total // 2
        starts.append(small if upper else total - small)
        ends.append(total - small if upper else small)
    return starts + ends
