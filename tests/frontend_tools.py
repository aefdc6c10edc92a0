"""Small ONNX models and the two ways to run them, for the tests of the frontend."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import tvm
from onnx import ModelProto, TensorProto, helper, numpy_helper

import tvmquant.schedules.compute  # noqa: F401  (registers the lowering of the waist)
from tvmquant.frontend import load_model
from tvmquant.ops import is_op

MICROSOFT = "com.microsoft"


def make_model(nodes, inputs, constants=None, outputs=("y",), opset=17, output_types=None):
    """Model of ``nodes``; ``inputs`` and ``constants`` map names to arrays or TensorProtos."""
    output_types = output_types or {}
    graph = helper.make_graph(
        nodes,
        "test",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in inputs.items()
        ],
        [
            helper.make_tensor_value_info(name, output_types.get(name, TensorProto.FLOAT), None)
            for name in outputs
        ],
        [
            c if isinstance(c, TensorProto) else numpy_helper.from_array(np.asarray(c), name)
            for name, c in (constants or {}).items()
        ],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def node(op, inputs, outputs="y", **attributes):
    """Node from names in one string."""
    return helper.make_node(
        op, ["" if name == "_" else name for name in inputs.split()], outputs.split(), **attributes
    )


def low_bit(name, elem_type, values):
    """4- or 2-bit constant."""
    array = np.asarray(values)
    return helper.make_tensor(name, elem_type, array.shape, array.reshape(-1).tolist())


def run_tvm(model, feeds):
    """Outputs of the imported model, compiled plainly."""
    loaded = load_model(model)
    target = tvm.target.Target({"kind": "llvm", "opt-level": 1})
    vm = tvm.relax.VirtualMachine(tvm.compile(loaded.mod, target=target), tvm.cpu())
    result = vm["main"](*(tvm.runtime.tensor(feeds[info.name]) for info in loaded.inputs))
    return [array.numpy() for array in ([result] if hasattr(result, "numpy") else result)]


def run_onnxruntime(model, feeds):
    """Outputs of ONNX Runtime without its optimizations."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options).run(None, feeds)


def assert_same(model: ModelProto, feeds, rtol=1e-4, atol=1e-5):
    """Both ways agree."""
    got, want = run_tvm(model, feeds), run_onnxruntime(model, feeds)
    assert len(got) == len(want)
    for a, b in zip(got, want):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def bindings(mod):
    """``(variable name, operator name)`` of every binding of ``main``."""
    found = []
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            op = getattr(getattr(binding.value, "op", None), "name", "")
            found.append((str(binding.var.name), str(op)))
    return found


def op_types(model):
    """Operator types of an ONNX graph, in order."""
    return [n.op_type for n in model.graph.node]


def constants_of(model):
    """Initializers by name."""
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def calls(mod, name):
    """Calls of one operator in ``main``."""
    return [
        b.value for block in mod["main"].body.blocks for b in block.bindings if is_op(b.value, name)
    ]
