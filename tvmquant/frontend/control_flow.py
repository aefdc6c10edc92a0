"""If nodes: inlined into the graph around them, so that the compiler sees straight-line code.

A condition that is known takes its branch. Otherwise both branches run (ONNX operators have no
side effects) and ``Where`` selects.
"""

from __future__ import annotations

from collections.abc import Iterable

from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper


def branches(node: NodeProto) -> tuple[GraphProto, GraphProto]:
    """``then`` and ``else`` graph of an If node."""
    graphs = {attribute.name: attribute.g for attribute in node.attribute}
    return graphs["then_branch"], graphs["else_branch"]


def subgraphs(node: NodeProto) -> list[GraphProto]:
    """Graphs nested in a node (branches, loop bodies)."""
    found = [a.g for a in node.attribute if a.type == AttributeProto.GRAPH]
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPHS:
            found.extend(attribute.graphs)
    return found


def take_branch(node: NodeProto, taken: bool) -> tuple[list[NodeProto], list[TensorProto]]:
    """Nodes and constants that replace an If whose condition is known."""
    graph = branches(node)[0 if taken else 1]
    nodes, constants, outputs = _inline(graph, node.name)
    nodes += [
        helper.make_node("Identity", [inner], [outer], name=outer)
        for inner, outer in zip(outputs, node.output)
        if outer
    ]
    return nodes, constants


def select_branches(node: NodeProto) -> tuple[list[NodeProto], list[TensorProto]]:
    """Nodes and constants that replace an If whose condition is only known at run time."""
    then_graph, else_graph = branches(node)
    nodes, constants, then_outputs = _inline(then_graph, f"{node.name}/then")
    more_nodes, more_constants, else_outputs = _inline(else_graph, f"{node.name}/else")
    nodes += more_nodes
    for a, b, outer in zip(then_outputs, else_outputs, node.output):
        if outer:
            nodes.append(helper.make_node("Where", [node.input[0], a, b], [outer], name=outer))
    return nodes, constants + more_constants


def _inline(graph: GraphProto, prefix: str) -> tuple[list[NodeProto], list[TensorProto], list[str]]:
    """Copies of a branch's nodes and constants, its own values renamed to ``prefix/name``."""
    own = [tensor.name for tensor in graph.initializer]
    own += [name for node in graph.node for name in node.output if name]
    renames = {name: f"{prefix}/{name}" for name in own}
    nodes = [_renamed(node, renames) for node in graph.node]
    constants = []
    for tensor in graph.initializer:
        copy = TensorProto()
        copy.CopyFrom(tensor)
        copy.name = renames[tensor.name]
        constants.append(copy)
    return nodes, constants, [renames.get(out.name, out.name) for out in graph.output]


def _renamed(node: NodeProto, renames: dict[str, str]) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    if node.name in renames:  # an unnamed node is called like its output
        copy.name = renames[node.name]
    _replace(copy.input, renames)
    _replace(copy.output, renames)
    for graph in subgraphs(copy):
        inner = {tensor.name for tensor in graph.initializer} | {i.name for i in graph.input}
        visible = {k: v for k, v in renames.items() if k not in inner}
        nested = [_renamed(child, visible) for child in graph.node]
        del graph.node[:]
        graph.node.extend(nested)
        for output in graph.output:
            output.name = visible.get(output.name, output.name)
    return copy


def _replace(names: Iterable[str], renames: dict[str, str]) -> None:
    names[:] = [renames.get(name, name) for name in names]
