"""The QDQ graph beside the float program that it approximates.

Both have the same names: what has a name in the float program and is no quantize or dequantize node
can be had as a float value, everything else is evaluated from there. So any part of the quantized
graph can be run on float inputs, and the rest of the float program on what it gives.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from tvm import relax

from tvmquant.errors import InputError
from tvmquant.graph import Graph, const_value, is_const, name_of, operands
from tvmquant.interpreter import Interpreter
from tvmquant.ops import is_op
from tvmquant.ops.integer import shape_of
from tvmquant.ops.waist import channel_bits
from tvmquant.passes.fold_affine import per_channel
from tvmquant.quantizer import QuantizedModel

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


class Pairing:
    """Layers and edges of a quantized model, and the values of both of its graphs.

    Raises
    ------
    InputError
        If the model came quantized: there is no float program to compare with.
    """

    def __init__(self, model: QuantizedModel) -> None:
        if model.reference is None:
            raise InputError(
                f"{model.source or 'the model'} was quantized by others: there are no float "
                "values to compare with; give the float model"
            )
        self.reference = Interpreter(model.reference)
        self.quantized = Interpreter(model.mod)
        self._constants: dict[relax.Var, Any] = {}
        self._known = self._correspondence()
        self.edges = self._edges()
        self.layers = self._layers()

    # -- structure ------------------------------------------------------------------------------
    def _correspondence(self) -> dict[relax.Var, relax.Var]:
        """Variable of the quantized graph → the one of the float program that it stands for."""
        floats = {str(v.name): v for v, _ in self.reference.graph.bindings}
        found = dict(zip(self.quantized.graph.params, self.reference.graph.params))
        for var, value in self.quantized.graph.bindings:
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
        while var not in self._known:
            value = _producer(self.quantized.graph, var)
            if not is_op(value, *_WAIST, _DYNAMIC) or not isinstance(value.args[0], relax.Var):
                return None
            var = value.args[0]
        return self._known[var]

    def weight_bits(self, layer: Layer) -> float | None:
        """Bits of a layer's weights, the mean where its channels differ."""
        if layer.weight_var is None:
            return None
        node = self.quantized.graph.value(layer.weight_var)
        if not is_op(node, "tvmquant.dequantize"):
            # Weights that are stored as float16.
            return 16
        bits = channel_bits(node) or [int(node.attrs["bits"])]
        return bits[0] if len(set(bits)) == 1 else float(np.mean(bits))

    def _edges(self) -> list[Edge]:
        graph = self.quantized.graph
        edges = []
        for var, value in graph.bindings:
            source = value.args[0] if is_op(value, "tvmquant.dequantize") else None
            if not isinstance(source, relax.Var) or source not in graph.values:
                continue
            node, base = _producer(graph, source), self.base(var)
            if is_op(node, "tvmquant.quantize", _DYNAMIC) and base is not None:
                edges.append(_edge(source, var, node, base))
        return edges

    def _layers(self) -> list[Layer]:
        bound = {str(v.name): v for v, _ in self.quantized.graph.bindings}
        by_floats = {edge.floats: edge for edge in self.edges}
        layers = []
        for reference, value in self.reference.graph.bindings:
            var = bound.get(str(reference.name))
            if var is None or name_of(value) not in ("nn.conv2d", "matmul"):
                continue
            own = self.quantized.graph.values[var]
            if all(arg in self._known for arg in operands(own)):
                continue
            inputs = tuple(by_floats[a] for a in operands(own) if a in by_floats)
            weight = _float_weight(self.reference.graph, value)
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
        new, old = _bias(self.quantized.graph, var), _bias(self.reference.graph, reference)
        shift = np.asarray(new - old, np.float32)
        return shift if np.any(shift) else None

    # -- values ---------------------------------------------------------------------------------
    def float_values(self, inputs: Sequence[np.ndarray]) -> dict[relax.Var, Any]:
        """Every value of the float program."""
        env: dict[relax.Var, Any] = dict(zip(self.reference.graph.params, inputs))
        for var, value in self.reference.graph.bindings:
            env[var] = self.reference.evaluate(value, env)
        return env

    def quantized_value(self, var: relax.Var, env: dict[relax.Var, Any]) -> Any:
        """What the quantized graph makes of the float values up to ``var``."""
        if var in self._known:
            return env[self._known[var]]
        return self._own_value(var, env)

    def _own_value(self, var: relax.Var, env: dict[relax.Var, Any]) -> Any:
        if var in self._constants:
            return self._constants[var]
        value = self.quantized.graph.values[var]
        needed = list(operands(value))
        local = {arg: self.quantized_value(arg, env) for arg in needed}
        result = self.quantized.evaluate(value, local)
        if all(arg in self._constants for arg in needed):
            self._constants[var] = result
        return result

    def only(self, layer: Layer, env: dict[relax.Var, Any]) -> list[np.ndarray]:
        """Outputs of the float program in which this layer alone is quantized."""
        result = self._own_value(layer.var, env)
        if layer.shift is not None:
            result = result + layer.shift
        changed: dict[relax.Var, Any] = {layer.reference: result}
        both: Any = ChainMap(changed, env)
        for var, value in self._after[layer.reference]:
            changed[var] = self.reference.evaluate(value, both)
        return self.reference.outputs(both)

    @cached_property
    def _after(self) -> dict[relax.Var, list[tuple[relax.Var, Any]]]:
        """For every layer the bindings of the float program that depend on it."""
        found = {}
        for layer in self.layers:
            reached, bindings = {layer.reference}, []
            for var, value in self.reference.graph.bindings:
                if var not in reached and any(arg in reached for arg in operands(value)):
                    reached.add(var)
                    bindings.append((var, value))
            found[layer.reference] = bindings
        return found

    @cached_property
    def results(self) -> dict[relax.Var, relax.Var]:
        """Layer in the float program → its result there, after bias and activation function."""
        graph = self.reference.graph
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
