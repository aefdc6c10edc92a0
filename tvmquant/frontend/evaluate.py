"""Evaluating one ONNX node on constants."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator


def evaluate(
    node: NodeProto, constants: Sequence[TensorProto], model: ModelProto
) -> list[TensorProto] | None:
    """Outputs of ``node``, or ``None`` when neither ONNX Runtime nor ONNX can compute it.

    Parameters
    ----------
    node : onnx.NodeProto
        Deterministic, without subgraphs.
    constants : sequence of onnx.TensorProto
        Its inputs, in any order, by name.
    model : onnx.ModelProto
        Gives the versions of the operator sets.
    """
    if node.op_type == "Constant" and node.attribute[0].name == "value":
        tensor = TensorProto()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        return [tensor]
    # Every output is asked for by name: ONNX Runtime crashes where Split leaves one out.
    full = NodeProto()
    full.CopyFrom(node)
    full.output[:] = [name or f"{node.name}/unused_{i}" for i, name in enumerate(node.output)]
    graph = helper.make_graph(
        [full],
        "constant",
        [],
        [onnx.ValueInfoProto(name=name) for name in full.output],
        list({tensor.name: tensor for tensor in constants}.values()),
    )
    single = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    # ONNX Runtime first: it is what the float model is compared with.
    for run in (_run_onnxruntime, _run_reference):
        try:
            arrays = run(single)
            return [
                numpy_helper.from_array(np.asarray(array), name)
                for array, name in zip(arrays, node.output)
                if name
            ]
        except Exception:
            # Each engine has its own errors for "not implemented"; the node then stays.
            continue
    return None


def _run_onnxruntime(model: ModelProto) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {})


def _run_reference(model: ModelProto) -> list[np.ndarray]:
    return ReferenceEvaluator(model).run(None, {})
