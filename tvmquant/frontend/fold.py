"""Constant folding on the ONNX graph, before TVM sees it.

One walk in graph order: every node whose inputs are constant is evaluated, ``Shape`` of a tensor
with a static shape is a constant, ``If`` disappears, and the type of every other value is
inferred from its inputs. Nothing is fused or renamed, and ``DequantizeLinear`` of a constant
stays: its exact integers are what quantized inference computes with.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper

from tvmquant.errors import ModelError, UnsupportedOperatorError
from tvmquant.frontend.control_flow import select_branches, subgraphs, take_branch
from tvmquant.frontend.evaluate import evaluate
from tvmquant.frontend.functions import definition, is_defined
from tvmquant.frontend.onnx_model import graph_inputs, opset_of

_KEPT = frozenset({"DequantizeLinear", "DynamicQuantizeLinear"})
_RANDOM = ("Random", "Multinomial", "Bernoulli")
# Constants above this size are not handed to type inference: no shape is that long.
_LARGEST_SHAPE_INPUT = 1024
_INFERENCE_ERRORS = (
    onnx.checker.ValidationError,
    onnx.defs.SchemaError,
    onnx.shape_inference.InferenceError,
    RuntimeError,
)


def fold_constants(model: ModelProto) -> ModelProto:
    """Fold constants and infer the type of every value.

    Parameters
    ----------
    model : onnx.ModelProto
        Input shapes are static (:func:`tvmquant.frontend.shapes.fix_shapes`).

    Returns
    -------
    onnx.ModelProto
        Same inputs, outputs, node and tensor names; ``value_info`` holds the inferred types.

    Raises
    ------
    ModelError
        A node reads a value that nothing produces.
    """
    folder = _Folder(model)
    folder.walk(model.graph.node)
    return folder.result()


class _Folder:
    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.opset = opset_of(model)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.types: dict[str, TypeProto] = {v.name: v.type for v in graph_inputs(model.graph)}
        for tensor in model.graph.initializer:
            self.types[tensor.name] = _type_of(tensor)
        self.declared = {v.name: v.type for v in model.graph.value_info}
        self.nodes: list[NodeProto] = []
        self.produced = set(self.types)

    def walk(self, nodes: Iterable[NodeProto]) -> None:
        for node in nodes:
            self._check_inputs(node)
            if node.op_type == "If":
                self._inline_if(node)
            elif self._fold(node):
                continue
            elif is_defined(node):
                self.walk(self._definition(node))
            else:
                self._keep(node)

    def result(self) -> ModelProto:
        source = self.model.graph
        outputs = [self._output(value) for value in source.output]
        live = _live_nodes(self.nodes, [value.name for value in source.output])
        used = {name for node in live for name in _reads(node)} | {v.name for v in outputs}
        graph = helper.make_graph(
            live,
            source.name,
            graph_inputs(source),
            outputs,
            [tensor for name, tensor in self.constants.items() if name in used],
            value_info=[
                helper.make_value_info(name, kind)
                for name, kind in self.types.items()
                if name in used and name not in self.constants
            ],
        )
        folded = ModelProto()
        folded.CopyFrom(self.model)
        folded.graph.CopyFrom(graph)
        return folded

    def _check_inputs(self, node: NodeProto) -> None:
        for name in node.input:
            if name and name not in self.produced:
                raise ModelError(
                    f"node '{node.name}' ({node.op_type}) reads '{name}', which nothing before "
                    "it produces: the model is damaged or not sorted"
                )

    def _fold(self, node: NodeProto) -> bool:
        """Whether the node became constants."""
        if node.op_type in _KEPT or node.op_type.startswith(_RANDOM) or subgraphs(node):
            return False
        if node.op_type in ("Shape", "Size"):
            return self._fold_shape(node)
        names = [name for name in node.input if name]
        if not all(name in self.constants for name in names):
            return False
        if not names and node.op_type != "Constant":
            return False
        results = evaluate(node, [self.constants[name] for name in names], self.model)
        if results is None:
            return False
        for tensor in results:
            self._add_constant(tensor)
        return True

    def _fold_shape(self, node: NodeProto) -> bool:
        kind = self.types.get(node.input[0])
        dims = _static_dims(kind) if kind is not None else None
        if dims is None:
            return False
        if node.op_type == "Size":
            value = np.asarray(np.prod(dims, dtype=np.int64))
        else:
            attributes = {a.name: a.i for a in node.attribute}
            value = np.asarray(dims[slice(attributes.get("start"), attributes.get("end"))])
        self._add_constant(numpy_helper.from_array(value.astype(np.int64), node.output[0]))
        return True

    def _definition(self, node: NodeProto) -> list[NodeProto]:
        nodes = definition(node, self.opset, self.types)
        if nodes is None:
            raise UnsupportedOperatorError(
                f"node '{node.name}' ({node.op_type}) has no definition by other operators in "
                f"opset {self.opset}: export the model with a later opset, or without it"
            )
        return nodes

    def _inline_if(self, node: NodeProto) -> None:
        condition = self.constants.get(node.input[0])
        if condition is None:
            nodes, constants = select_branches(node)
        else:
            taken = bool(numpy_helper.to_array(condition).reshape(-1)[0])
            nodes, constants = take_branch(node, taken)
        for tensor in constants:
            self._add_constant(tensor)
        self.walk(nodes)

    def _add_constant(self, tensor: TensorProto) -> None:
        self.constants[tensor.name] = tensor
        self.types[tensor.name] = _type_of(tensor)
        self.produced.add(tensor.name)

    def _keep(self, node: NodeProto) -> None:
        self.nodes.append(node)
        inferred = self._infer(node)
        for name in node.output:
            if not name:
                continue
            self.produced.add(name)
            kind = inferred.get(name) or self.declared.get(name)
            if kind is not None:
                self.types[name] = kind

    def _infer(self, node: NodeProto) -> dict[str, TypeProto]:
        names = [name for name in node.input if name]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            # Lowered nodes may use attributes that the model's opset does not have.
            return self._infer_qdq(node)
        domain = "" if node.domain == "ai.onnx" else node.domain
        versions = {o.domain: o.version for o in self.model.opset_import}
        version = versions.get(domain, self.opset if domain == "" else 1)
        if not onnx.defs.has(node.op_type, domain) or any(n not in self.types for n in names):
            return {}
        data = {n: self.constants[n] for n in names if _is_small(self.constants.get(n))}
        try:
            return onnx.shape_inference.infer_node_outputs(
                onnx.defs.get_schema(node.op_type, version, domain),
                node,
                {name: self.types[name] for name in names},
                data,
                opset_imports=list(self.model.opset_import),
                ir_version=self.model.ir_version,
            )
        except _INFERENCE_ERRORS:
            return {}

    def _infer_qdq(self, node: NodeProto) -> dict[str, TypeProto]:
        asked = {a.name: a.i for a in node.attribute}.get("output_dtype", 0)
        giver = 1 if node.op_type == "DequantizeLinear" else 2
        name = node.input[giver] if giver < len(node.input) else ""
        given = self.types[name].tensor_type.elem_type if name in self.types else TensorProto.UINT8
        if node.input[0] not in self.types:
            return {}
        kind = TypeProto()
        kind.CopyFrom(self.types[node.input[0]])
        kind.tensor_type.elem_type = asked or given
        return {node.output[0]: kind}

    def _output(self, value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
        if value.name not in self.produced:
            raise ModelError(f"nothing produces the model's output '{value.name}'")
        return helper.make_value_info(value.name, self.types.get(value.name, value.type))


def _type_of(tensor: TensorProto) -> TypeProto:
    return helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))


def _is_small(tensor: TensorProto | None) -> bool:
    return tensor is not None and int(np.prod(tensor.dims)) <= _LARGEST_SHAPE_INPUT


def _static_dims(kind: TypeProto) -> list[int] | None:
    tensor = kind.tensor_type
    if not kind.HasField("tensor_type") or not tensor.HasField("shape"):
        return None
    if not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    return [dim.dim_value for dim in tensor.shape.dim]


def _reads(node: NodeProto) -> set[str]:
    names = {name for name in node.input if name}
    for graph in subgraphs(node):
        names.update(*(_reads(child) for child in graph.node))
    return names


def _live_nodes(nodes: list[NodeProto], outputs: list[str]) -> list[NodeProto]:
    needed, live = set(outputs), []
    for node in reversed(nodes):
        if needed & set(node.output):
            needed |= _reads(node)
            live.append(node)
    return live[::-1]
