"""Operators that ONNX itself defines by others: replaced by their definition.

``Attention`` of opset 23, ``RotaryEmbedding``, ``Celu`` and the like have a body in the ONNX
standard. It is taken where TVM's importer does not know the operator (or knows another one of
the same name), and constant folding makes straight-line code of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import AttributeProto, FunctionProto, NodeProto, TypeProto, defs

from tvmquant.frontend.control_flow import subgraphs

DEFINED = frozenset({"Attention", "Celu", "CenterCropPad", "RotaryEmbedding", "SwiGLU", "Swish"})


def is_defined(node: NodeProto) -> bool:
    """Whether :func:`definition` is to be asked for the meaning of ``node``."""
    return node.op_type in DEFINED and node.domain in ("", "ai.onnx")


def definition(
    node: NodeProto, opset: int, types: Mapping[str, TypeProto]
) -> list[NodeProto] | None:
    """Nodes that compute what ``node`` does, with the node's name as a prefix of theirs.

    Parameters
    ----------
    node : onnx.NodeProto
        :func:`is_defined` is true for it.
    opset : int
        Version of the default operator set.
    types : mapping of str to onnx.TypeProto
        Type of every value that is known so far.

    Returns
    -------
    list of onnx.NodeProto or None
        ``None`` if the standard has no body for this version, or not for these types.
    """
    try:
        schema = defs.get_schema(node.op_type, opset, "")
    except defs.SchemaError:
        return None
    body = _body(schema, node, types)
    if body is None or any(subgraphs(inner) for inner in body.node):
        return None
    given = {name: a.default_value for name, a in schema.attributes.items()}
    given |= {a.name: a for a in node.attribute}
    names = {inner: outer for inner, outer in zip(body.output, node.output) if outer}
    names.update(dict.fromkeys(body.input, ""))  # optional inputs may be left out
    names.update(zip(body.input, node.input))
    nodes = []
    for i, inner in enumerate(body.node):
        copy = _with_attributes(inner, given)
        copy.name = f"{node.name}/{inner.name or f'{inner.op_type}_{i}'}"
        for values in (copy.input, copy.output):
            values[:] = [names.get(v, f"{node.name}/{v}" if v else "") for v in values]
        nodes.append(copy)
    return nodes


def _body(
    schema: defs.OpSchema, node: NodeProto, types: Mapping[str, TypeProto]
) -> FunctionProto | None:
    if schema.has_function:
        return _parsed(schema.get_function_with_opset_version(schema.function_opset_versions[-1]))
    if not schema.has_context_dependent_function or any(n and n not in types for n in node.input):
        return None
    version = schema.context_dependent_function_opset_versions[-1]
    kinds = [types[name].SerializeToString() if name else b"" for name in node.input]
    return _parsed(
        schema.get_context_dependent_function_with_opset_version(
            version, node.SerializeToString(), kinds
        )
    )


def _parsed(text: bytes) -> FunctionProto:
    body = FunctionProto()
    body.ParseFromString(text)
    return body


def _with_attributes(node: NodeProto, given: Mapping[str, AttributeProto]) -> NodeProto:
    """Copy of a node of the body, references to the operator's attributes resolved."""
    copy = NodeProto()
    copy.CopyFrom(node)
    kept = []
    for attribute in copy.attribute:
        name, source = attribute.name, attribute.ref_attr_name
        if source and not given[source].name:
            continue  # neither given nor with a default
        if source:
            attribute.CopyFrom(given[source])
            attribute.name = name
        kept.append(attribute)
    del copy.attribute[:]
    copy.attribute.extend(kept)
    return copy
