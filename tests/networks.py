"""Small ONNX networks, and the ways to run them: ONNX Runtime, the interpreter, the compiler."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
import tvm
from onnx import ModelProto, helper, numpy_helper

import tvmquant
from tvmquant.graph import Graph, name_of, operands
from tvmquant.interpreter import Interpreter
from tvmquant.passes.pipeline import to_integers
from tvmquant.quantizer import QuantizedModel


class Net:
    """Builds an ONNX model node by node; every method returns the name of a tensor."""

    def __init__(self, seed: int = 0, opset: int = 18) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.nodes, self.inputs, self.constants = [], {}, {}

    def input(self, *shape: int, name: str = "", dtype: str = "float32") -> str:
        name = name or f"x{len(self.inputs)}"
        self.inputs[name] = (shape, np.dtype(dtype))
        return name

    def constant(self, value) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def weight(self, *shape: int, scale: float = 1.0) -> str:
        """Normal float32 constant."""
        return self.constant((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def op(self, kind: str, *inputs: str, outputs: int = 1, name: str = "", **attrs):
        """Add a node; arrays among the inputs become constants."""
        name = name or f"{kind.lower()}{len(self.nodes)}"
        args = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        made = [f"{name}_out"] if outputs == 1 else [f"{name}_out{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, args, made, name=name, **attrs))
        return made[0] if outputs == 1 else made

    def conv(self, x: str, c: int, o: int, k=3, *, bias: bool = True, name: str = "", **attrs):
        """Convolution of ``c`` to ``o`` channels; ``k`` is a number or the kernel's shape."""
        kernel = (k, k) if isinstance(k, int) else tuple(k)
        group = attrs.get("group", 1)
        fan_in = c // group * int(np.prod(kernel))
        args = [x, self.weight(o, c // group, *kernel, scale=fan_in**-0.5)]
        if bias:
            args.append(self.weight(o, scale=0.2))
        if "pads" not in attrs and "auto_pad" not in attrs:
            attrs["pads"] = [s // 2 for s in kernel] * 2
        return self.op("Conv", *args, name=name, **attrs)

    def dense(self, x: str, k: int, o: int, *, name: str = "") -> str:
        """Matmul with constant weights followed by the addition of a bias."""
        y = self.op("MatMul", x, self.weight(k, o, scale=k**-0.5), name=name)
        return self.op("Add", y, self.weight(o, scale=0.2))

    def model(self, *outputs: str) -> ModelProto:
        """Finished model; the element type of outputs is float32."""
        infos = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(dtype), shape)
            for n, (shape, dtype) in self.inputs.items()
        ]
        results = [helper.make_tensor_value_info(n, 1, None) for n in outputs]
        tensors = [numpy_helper.from_array(value, n) for n, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "test", infos, results, tensors)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def data(self, samples: int = 4, seed: int = 1) -> list[dict[str, np.ndarray]]:
        """Normal inputs (small integers for integer inputs)."""
        rng = np.random.default_rng(seed)
        return [
            {
                n: rng.standard_normal(shape).astype(dtype)
                if dtype.kind == "f"
                else rng.integers(0, 4, shape).astype(dtype)
                for n, (shape, dtype) in self.inputs.items()
            }
            for _ in range(samples)
        ]


@dataclass
class Built:
    """A network at the QDQ waist, in integers, and compiled."""

    quantized: QuantizedModel
    integers: tvm.IRModule
    compiled: tvmquant.CompiledModel

    def interpret(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Outputs of the NumPy interpreter of the realized graph."""
        return interpret(self.integers, [feeds[i.name] for i in self.quantized.inputs])

    def run(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Outputs of the compiled module."""
        return list(self.compiled.run(feeds).values())

    def assert_exact(self, batches: list[dict[str, np.ndarray]]) -> None:
        """The compiled module equals the interpreter bit for bit."""
        for feeds in batches:
            for got, want in zip(self.run(feeds), self.interpret(feeds), strict=True):
                assert got.dtype == want.dtype
                assert np.all(np.isfinite(got))
                np.testing.assert_array_equal(got, want)

    def assert_close(
        self, model: ModelProto, batches: list[dict[str, np.ndarray]], least: float = 0.98
    ) -> None:
        """Cosine similarity of every output to float ONNX Runtime is at least ``least``."""
        for index, wants in enumerate(zip(*(run_onnx(model, feeds) for feeds in batches))):
            got = np.stack([self.interpret(feeds)[index] for feeds in batches])
            assert cosine(got, np.stack(wants)) >= least


def build(model: ModelProto, data, bits=8, **options) -> Built:
    """Quantize and compile; ``options`` as for ``tvmquant.compile``."""
    quantized = tvmquant.quantize(model, bits, calibration=data, **options)
    integers = to_integers(quantized.mod, quantized.recipe)
    return Built(quantized, integers, tvmquant.compile(quantized))


def realized(model: ModelProto, data, bits=8, **options) -> Built:
    """Like :func:`build` but without compiling (``compiled`` is missing)."""
    quantized = tvmquant.quantize(model, bits, calibration=data, **options)
    return Built(quantized, to_integers(quantized.mod, quantized.recipe), None)


def interpret(mod: tvm.IRModule, inputs) -> list[np.ndarray]:
    """Run ``main`` operator by operator."""
    return Interpreter(mod).run(list(inputs))


def run_onnx(model: ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs of ONNX Runtime without its optimizations."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine similarity of two arrays of one shape."""
    assert a.shape == b.shape
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norm) if norm else float(np.array_equal(a, b))


def operators(mod: tvm.IRModule) -> list[str]:
    """Operator names of ``main`` in order (tuple items left out)."""
    names = (name_of(value) for _, value in Graph(mod).bindings)
    return [n for n in names if n is not None]


def float_operators(mod: tvm.IRModule) -> list[str]:
    """Operators with a float result that have integer operators both before and after them.

    Empty for a network that runs in integers from its first quantize node to its last layer.
    """
    graph = Graph(mod)

    def is_integer(var) -> bool:
        return (name_of(graph.value(var)) or "").startswith("tvmquant.")

    after, before = set(), set()
    for var, value in graph.bindings:
        if any(arg in after or is_integer(arg) for arg in operands(value)):
            after.add(var)
    for var, _ in reversed(graph.bindings):
        if any(user in before or is_integer(user) for user in graph.users.get(var, ())):
            before.add(var)
    return [
        name_of(value) or "tuple item"
        for var, value in graph.bindings
        if var in after and var in before and str(getattr(value.ty, "dtype", "")) == "float32"
    ]


def assert_same_floats(before: tvm.IRModule, after: tvm.IRModule, arrays, rtol=1e-4) -> None:
    """Two float modules give the same numbers up to rounding."""
    for want, got in zip(interpret(before, arrays), interpret(after, arrays), strict=True):
        assert got.shape == want.shape
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * np.abs(want).max(initial=0))
