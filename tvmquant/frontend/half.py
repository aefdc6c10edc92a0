"""Models in float16 or bfloat16 are computed in float32.

Inputs and outputs of float16 keep their type; those of bfloat16, which NumPy does not have, become
float32. The numbers are at least as exact as in half precision: weights are the model's own, and
what is rounded in between is rounded less. A cast to one of them inside the graph rounds nothing.
"""

from __future__ import annotations

import numpy as np
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from tvmquant.frontend.control_flow import subgraphs

_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
# Attributes that hold an element type.
_TYPES = ("to", "dtype", "output_dtype", "stash_type", "precision", "softmax_precision")


def widen_half(model: ModelProto) -> ModelProto:
    """Copy of a model with float32 in place of the halves, casts at inputs and outputs in float16.

    A model without either is returned as it is.
    """
    if not _has_half(model.graph):
        return model
    widened = ModelProto()
    widened.CopyFrom(model)
    graph = widened.graph
    kept = {t.name for t in graph.initializer}
    inputs = [v for v in graph.input if _is_float16(v) and v.name not in kept]
    outputs = [v for v in graph.output if _is_float16(v)]
    _widen(graph)
    _border(graph, inputs, outputs)
    return widened


def _border(graph: GraphProto, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]) -> None:
    """Cast at the inputs and outputs, which have their names back."""
    inside = {value.name: f"{value.name}/float32" for value in (*inputs, *outputs)}
    for node in _nodes(graph):
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = inside.get(name, name)
    casts = [
        helper.make_node(
            "Cast", [v.name], [inside[v.name]], name=inside[v.name], to=TensorProto.FLOAT
        )
        for v in inputs
    ]
    nodes = [*casts, *graph.node]
    for v in outputs:
        name = f"{v.name}/float16"
        nodes.append(
            helper.make_node("Cast", [inside[v.name]], [v.name], name=name, to=TensorProto.FLOAT16)
        )
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    for value in (*inputs, *outputs):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16


def _nodes(graph: GraphProto) -> list:
    found = []
    for node in graph.node:
        found.append(node)
        for inner in subgraphs(node):
            found += _nodes(inner)
    return found


def _is_float16(value: ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type == TensorProto.FLOAT16


def _is_half(value: ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type in _HALVES


def _has_half(graph: GraphProto) -> bool:
    """Whether any tensor or attribute of a graph has half the bits."""
    if any(t.data_type in _HALVES for t in graph.initializer):
        return True
    if any(_is_half(v) for v in (*graph.input, *graph.output, *graph.value_info)):
        return True
    for node in _nodes(graph):
        for attribute in node.attribute:
            if attribute.name in _TYPES and attribute.i in _HALVES:
                return True
            if attribute.t.data_type in _HALVES:
                return True
    return False


def _widen(graph: GraphProto) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if _is_half(value):
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in _TYPES and attribute.i in _HALVES:
                attribute.i = TensorProto.FLOAT
            elif attribute.type == AttributeProto.TENSOR:
                _widen_tensor(attribute.t)
        for inner in subgraphs(node):
            _widen(inner)


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in _HALVES:
        array = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
