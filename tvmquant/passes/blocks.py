"""Blocks of a QDQ graph: what lies between two points where only one tensor is alive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tvm import relax

from tvmquant.graph import Graph, name_of, operands
from tvmquant.ops import is_op
from tvmquant.ops.integer import shape_of


@dataclass
class Block:
    """Consecutive bindings with one result.

    Attributes
    ----------
    bindings : list of (relax.Var, relax.Expr)
    output : relax.Var
        The last variable, all that later bindings read of it.
    layers : list of relax.Var
        Its convolutions and matmuls with quantized weights.
    """

    bindings: list[tuple[relax.Var, Any]] = field(default_factory=list)
    layers: list[relax.Var] = field(default_factory=list)

    @property
    def output(self) -> relax.Var:
        """Its result."""
        return self.bindings[-1][0]

    def inputs(self) -> list[relax.Var]:
        """Variables of earlier bindings that it reads, in order."""
        own = {var for var, _ in self.bindings}
        read = (arg for _, value in self.bindings for arg in operands(value))
        return [var for var in dict.fromkeys(read) if var not in own]


def find_blocks(graph: Graph, is_layer: Callable[[relax.Var], bool]) -> tuple[list, list[Block]]:
    """Cut a graph into what no layer has a part in, and blocks.

    A residual block is one block, a depthwise layer is joined with the layers around it, other
    layers are blocks of their own.

    Parameters
    ----------
    graph : Graph
    is_layer : callable
        Whether a variable is the result of a layer with quantized weights.

    Returns
    -------
    before : list of (relax.Var, relax.Expr)
        Bindings that depend on no layer, in order.
    blocks : list of Block
        All others, in order. Only the last block may have several results.
    """
    moving: set[relax.Var] = set()
    before, after = [], []
    for var, value in graph.bindings:
        if is_layer(var) or any(arg in moving for arg in operands(value)):
            moving.add(var)
            after.append((var, value))
        else:
            before.append((var, value))
    return before, _joined(graph, _pieces(graph, after, is_layer))


def _pieces(
    graph: Graph, bindings: list[tuple[relax.Var, Any]], is_layer: Callable[[relax.Var], bool]
) -> list[Block]:
    last = {arg: i for i, (_, value) in enumerate(bindings) for arg in operands(value)}
    last.update({out: len(bindings) for out in graph.output_vars})
    blocks, current = [], Block()
    alive: set[relax.Var] = set()
    for i, (var, value) in enumerate(bindings):
        current.bindings.append((var, value))
        if is_layer(var):
            current.layers.append(var)
        alive = {v for v in alive | {var} if last.get(v, -1) > i}
        follows = graph.users.get(var, ())
        # A bias, a ReLU and a quantization belong to what they follow or precede as a whole.
        ends = not is_op(value, "tvmquant.quantize") and not _continues(graph, follows)
        if alive == {var} and ends and current.layers:
            blocks.append(current)
            current = Block()
    if current.bindings:
        blocks.append(current)
    return blocks


def _continues(graph: Graph, users: list[relax.Var]) -> bool:
    """Whether a light operator follows that is better judged with the block."""
    if len(users) != 1:
        return False
    value = graph.values[users[0]]
    light = ("nn.relu", "clip", "add", "nn.prelu", "nn.leakyrelu", "nn.silu", "nn.gelu")
    return name_of(value) in light and sum(isinstance(a, relax.Var) for a in value.args) == 1


def _joined(graph: Graph, pieces: list[Block]) -> list[Block]:
    blocks: list[Block] = []
    for piece in pieces:
        if blocks and (
            not piece.layers
            or not blocks[-1].layers
            or _is_depthwise(graph, piece)
            or (_is_depthwise(graph, blocks[-1], at_end=True))
        ):
            blocks[-1].bindings += piece.bindings
            blocks[-1].layers += piece.layers
        else:
            blocks.append(piece)
    return blocks


def _is_depthwise(graph: Graph, block: Block, *, at_end: bool = False) -> bool:
    if not block.layers or (len(block.layers) > 1 and not at_end):
        return False
    call = graph.values[block.layers[-1]]
    return name_of(call) == "nn.conv2d" and 1 < int(call.attrs["groups"]) == shape_of(call)[-1]
