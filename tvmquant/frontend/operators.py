"""Which ONNX operators can be imported; the rest is refused all at once, by node name."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, ModelProto, NodeProto
from tvm.relax.frontend.onnx import onnx_frontend

from tvmquant.errors import UnsupportedOperatorError
from tvmquant.frontend.control_flow import subgraphs
from tvmquant.frontend.converters import CONVERTERS
from tvmquant.frontend.dtypes import REFUSED_TYPES, type_name
from tvmquant.frontend.functions import is_defined
from tvmquant.frontend.qdq import LOWERED, LOWERED_MICROSOFT

RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_MICROSOFT = "com.microsoft"
_INLINED = frozenset({"If", "Constant"})
_BOXES = frozenset({"NonMaxSuppression", "AllClassNMS"})
_SEQUENCES = frozenset(
    {
        "ConcatFromSequence",
        "SequenceAt",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceLength",
        "SplitToSequence",
    }
)
# TVM imports these, but gives tensors of other shapes than ONNX.
_NOT_STRAIGHT = _BOXES | _SEQUENCES
_LISTED_NODES = 5


def check_operators(model: ModelProto, *, nested: bool = True) -> None:
    """Raise ``UnsupportedOperatorError`` that lists every operator that cannot be imported.

    ``nested`` searches branches of ``If``, too.
    """
    missing: dict[str, list[str]] = {}
    for node in all_nodes(model.graph) if nested else model.graph.node:
        if not is_supported(node):
            label = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            missing.setdefault(label, []).append(node.name)
    if not missing:
        return
    parts = [f"{op} (node {_listed(names)})" for op, names in sorted(missing.items())]
    message = "operators that tvmquant cannot import: " + "; ".join(parts)
    if RECURRENT & set(missing):
        message += ". Recurrent operators (LSTM, GRU, RNN) come in a later version"
    if _BOXES & {label.split("::")[-1] for label in missing}:
        message += (
            ". How many boxes remain depends on the data: end the model before that node "
            "(onnx.utils.extract_model) and select boxes outside"
        )
    if _SEQUENCES & set(missing):
        message += ". Lists of tensors are not supported: export the model without them"
    raise UnsupportedOperatorError(message)


def check_types(model: ModelProto) -> None:
    """Raise ``UnsupportedOperatorError`` for the first node with a type such as float8.

    ``model`` has inferred types (:func:`tvmquant.frontend.fold.fold_constants`).
    """
    graph = model.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    for node in graph.node:
        asked = [a.i for a in node.attribute if a.name in ("to", "output_dtype")]
        for elem_type in (*(types.get(name) for name in (*node.input, *node.output)), *asked):
            if elem_type in REFUSED_TYPES:
                raise UnsupportedOperatorError(
                    f"node '{node.name}' ({node.op_type}) uses {type_name(elem_type)}, which "
                    "tvmquant does not support; integers of 2, 4, 8 and 16 bits and float32 are"
                )


def is_supported(node: NodeProto) -> bool:
    """Whether the operator of ``node`` can be imported (its types are another question)."""
    if node.domain == _MICROSOFT and node.op_type in LOWERED_MICROSOFT:
        return True
    if node.domain not in ("", "ai.onnx", _MICROSOFT) or node.op_type in _NOT_STRAIGHT:
        return False
    if is_defined(node):
        return True
    known = onnx_frontend._get_convert_map()
    return any(node.op_type in names for names in (LOWERED, CONVERTERS, known, _INLINED))


def all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Nodes of a graph and of the graphs nested in it."""
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from all_nodes(inner)


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_LISTED_NODES])
    more = len(names) - _LISTED_NODES
    return f"{shown} and {more} more" if more > 0 else shown
