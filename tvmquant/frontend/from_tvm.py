"""TVM's own converter of a node."""

from __future__ import annotations

from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from tvmquant.frontend.node import NodeView


def from_tvm(node: NodeView) -> relax.Expr:
    """Convert with TVM's importer."""
    converter = onnx_frontend._get_convert_map()[node.proto.op_type].get_converter(node.opset)
    inputs = onnx_frontend.onnx_input(node.inputs)
    custom = {"name": node.name, "num_outputs": len(node.proto.output)}
    return converter(node.bb, inputs, {**node.attrs, "tvm_custom": custom}, [{}, {}])
