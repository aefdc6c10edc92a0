"""What belongs together in a QDQ graph and the float program that it approximates.

Both have the same names: what has a name in the float program and is no quantize or dequantize node
stands for the value of that name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from tvm import relax

from tvmquant.graph import Graph, const_value, is_const, name_of, operands
from tvmquant.ops import is_op
from tvmquant.ops.integer import shape_of
from tvmquant.ops.waist import channel_bits
from tvmquant.passes.fold_affine import per_channel

_WAIST = ("tvmquant.quantize", "tvmquant.dequantize")
_DYNAMIC = "tvmquant.dynamic_quantize"


@dataclass(frozen=True)
class Edge:
    """A quantized activation.

    Attributes
    ----------
    name : str
        The tensor, with ``/q4`` behind it for a copy at fewer bits.
    integers, floats : relax.Var
        Bound to the quantize and to the dequantize node.
    base : relax.Var
        The tensor in the float program.
    bits : int
    scale, zero_point : float, int or None
        ``None`` where they are chosen at run time.
    low, high : float or None
        Range of the integers' values.
    """

    name: str
    integers: relax.Var
    floats: relax.Var
    base: relax.Var
    bits: int
    scale: float | None
    zero_point: int | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Layer:
    """A convolution or matrix product with quantized operands.

    Attributes
    ----------
    var, reference : relax.Var
        Its output in the quantized and in the float graph.
    inputs : tuple of Edge
        Its quantized activations; empty where they stay float.
    weight : np.ndarray or None
        Float weights; ``None`` for a product of two activations.
    weight_var : relax.Var or None
        Bound to the dequantization of the weights.
    shift : np.ndarray or None
        What corrections added to the bias.
    """

    var: relax.Var
    reference: relax.Var
    inputs: tuple[Edge, ...]
    weight: np.ndarray | None
    weight_var: relax.Var | None
    shift: np.ndarray | None

    @property
    def name(self) -> str:
        """Name of the layer."""
        return str(self.var.name)

    @property
    def channel_axis(self) -> int:
        """Axis of the output channels in ``weight``."""
        return 0 if self.weight is not None and self.weight.ndim == 4 else 1


class Correspondence:
    """Layers and edges of a quantized graph, each with its counterpart in the float program.

    Parameters
    ----------
    reference, quantized : Graph

    Attributes
    ----------
    known : dict of relax.Var to relax.Var
        Variable of the quantized graph by which a value of the float program is known → that.
    edges : list of Edge
    layers : list of Layer
    """

    def __init__(self, reference: Graph, quantized: Graph) -> None:
        self.reference, self.quantized = reference, quantized
        self.known = self._known()
        self.edges = self._find_edges()
        self.layers = self._find_layers()

    def _known(self) -> dict[relax.Var, relax.Var]:
        floats = {str(v.name): v for v, _ in self.reference.bindings}
        found = dict(zip(self.quantized.params, self.reference.params))
        for var, value in self.quantized.bindings:
            if is_op(value, *_WAIST):
                continue
            if str(var.name) in floats:
                found[var] = floats[str(var.name)]
            elif name_of(value) == "add" and is_const(value.args[1]) and value.args[0] in found:
                # The correction of a layer without a bias.
                found[var] = found[value.args[0]]
        return found

    def base(self, var: relax.Var) -> relax.Var | None:
        """The tensor of the float program that a variable of the quantized graph stands for."""
        while var not in self.known:
            value = _producer(self.quantized, var)
            if not is_op(value, *_WAIST, _DYNAMIC) or not isinstance(value.args[0], relax.Var):
                return None
            var = value.args[0]
        return self.known[var]

    def weight_bits(self, layer: Layer) -> float | None:
        """Bits of a layer's weights, the mean where its channels differ."""
        if layer.weight_var is None:
            return None
        node = self.quantized.value(layer.weight_var)
        if not is_op(node, "tvmquant.dequantize"):
            # Weights that are stored as float16.
            return 16
        bits = channel_bits(node) or [int(node.attrs["bits"])]
        return bits[0] if len(set(bits)) == 1 else float(np.mean(bits))

    def _find_edges(self) -> list[Edge]:
        graph = self.quantized
        edges = []
        for var, value in graph.bindings:
            source = value.args[0] if is_op(value, "tvmquant.dequantize") else None
            if not isinstance(source, relax.Var) or source not in graph.values:
                continue
            node, base = _producer(graph, source), self.base(var)
            if is_op(node, "tvmquant.quantize", _DYNAMIC) and base is not None:
                edges.append(_edge(source, var, node, base))
        return edges

    def _find_layers(self) -> list[Layer]:
        bound = {str(v.name): v for v, _ in self.quantized.bindings}
        by_floats = {edge.floats: edge for edge in self.edges}
        layers = []
        for reference, value in self.reference.bindings:
            var = bound.get(str(reference.name))
            if var is None or name_of(value) not in ("nn.conv2d", "matmul"):
                continue
            own = self.quantized.values[var]
            if all(arg in self.known for arg in operands(own)):
                continue
            inputs = tuple(by_floats[a] for a in operands(own) if a in by_floats)
            weight = _float_weight(self.reference, value)
            layers.append(
                Layer(
                    var,
                    reference,
                    inputs,
                    weight,
                    own.args[1] if weight is not None and _is_binary(own) else None,
                    self._shift(var, reference),
                )
            )
        return layers

    def _shift(self, var: relax.Var, reference: relax.Var) -> np.ndarray | None:
        new, old = _bias(self.quantized, var), _bias(self.reference, reference)
        shift = np.asarray(new - old, np.float32)
        return shift if np.any(shift) else None

    @cached_property
    def results(self) -> dict[relax.Var, relax.Var]:
        """Layer in the float program → its result there, after bias and activation function."""
        graph = self.reference
        found = {}
        for layer in self.layers:
            end = layer.reference
            while graph.num_uses(end) == 1 and graph.users.get(end):
                user = graph.users[end][0]
                value = graph.values[user]
                if name_of(value) not in ("add", "nn.relu", "clip", "nn.prelu"):
                    break
                if len(list(operands(value))) != 1:
                    break
                end = user
            found[layer.reference] = end
        return found


def _producer(graph: Graph, var: relax.Var) -> Any:
    """Call that makes a variable, also where it is one of several results."""
    value = graph.value(var)
    return graph.value(value.tuple_value) if isinstance(value, relax.TupleGetItem) else value


def _edge(integers: relax.Var, floats: relax.Var, node: relax.Call, base: relax.Var) -> Edge:
    params = [const_value(arg) for arg in node.args[1:3]]
    known = len(params) == 2 and all(array is not None and array.size == 1 for array in params)
    name = str(integers.name).removesuffix("/int").removesuffix("/q")
    if not known:
        return Edge(name, integers, floats, base, int(node.attrs["bits"]), *[None] * 4)
    step, point = float(params[0].reshape(())), int(params[1].reshape(()))
    low, high = (step * (int(node.attrs[key]) - point) for key in ("qmin", "qmax"))
    return Edge(name, integers, floats, base, int(node.attrs["bits"]), step, point, low, high)


def _is_binary(value: Any) -> bool:
    """Whether the weight is one operand still, not split into parts of different bits."""
    return name_of(value) in ("nn.conv2d", "matmul") and isinstance(value.args[1], relax.Var)


def _float_weight(graph: Graph, call: relax.Call) -> np.ndarray | None:
    weight = call.args[1]
    if not is_const(weight):
        node = graph.value(weight)
        if not is_op(node, "tvmquant.observe_weight"):
            return None
        weight = node.args[0]
    return const_value(weight)


def _bias(graph: Graph, var: relax.Var) -> np.ndarray:
    """Constants that are added to a layer's output right after it, ``[1]`` or ``[channels]``."""
    total = np.zeros(1, np.float64)
    while graph.num_uses(var) == 1 and graph.users.get(var):
        user = graph.users[var][0]
        value = graph.values[user]
        if name_of(value) != "add" or not value.args[0].same_as(var):
            break
        constant = per_channel(value.args[1], shape_of(value))
        if constant is None:
            break
        total, var = total + constant, user
    return total
