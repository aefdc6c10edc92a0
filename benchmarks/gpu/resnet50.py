"""ResNet-50 as ONNX, without PyTorch: its layers, and weights that compress well."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.gpu.bare import data

_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
_CLASSES = 1000


def resnet50(batch: int) -> onnx.ModelProto:
    """The network with batch normalization folded, as every compiler does; input ``image``.

    Weights repeat every 64 channels (see :func:`benchmarks.gpu.bare.data.weights`), scaled so
    that activations stay within reach of each other; biases differ. Only its speed means
    something.

    Parameters
    ----------
    batch : int
    """
    graph = _Graph()
    x = graph.conv("image", 3, 64, 7, 2, relu=True)
    x = graph.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    inputs = 64
    for width, blocks, first in _STAGES:
        for block in range(blocks):
            stride = first if block == 0 else 1
            y = graph.conv(x, inputs, width, 1, 1, relu=True)
            y = graph.conv(y, width, width, 3, stride, relu=True)
            y = graph.conv(y, width, 4 * width, 1, 1)
            if block == 0:
                x = graph.conv(x, inputs, 4 * width, 1, stride)
            x = graph.node("Relu", graph.node("Add", y, x))
            inputs = 4 * width
    x = graph.node("Flatten", graph.node("GlobalAveragePool", x))
    weight = graph.constant(graph.weights((_CLASSES, inputs)))
    bias = graph.constant(graph.bias(_CLASSES))
    graph.nodes.append(helper.make_node("Gemm", [x, weight, bias], ["classes"], transB=1))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 224, 224])
    classes = helper.make_tensor_value_info("classes", TensorProto.FLOAT, [batch, _CLASSES])
    made = helper.make_graph(graph.nodes, "resnet50", [image], [classes], graph.constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


class _Graph:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def weights(self, shape: tuple[int, ...]) -> np.ndarray:
        """float32 ``[O, I, ...]``: keeps the variance of what comes in."""
        outputs, inputs, *taps = shape
        codes = data.weights(len(self.constants), (outputs, *taps, inputs), 8)
        scale = 1.0 / (codes.std() * np.sqrt(inputs * np.prod(taps or [1]) / 2))
        return np.ascontiguousarray(np.moveaxis(codes * np.float32(scale), -1, 1))

    def bias(self, outputs: int) -> np.ndarray:
        raw = data.raw_bytes(1000 + len(self.constants), outputs).astype(np.float32)
        return (raw - 128) / 512

    def conv(
        self, x: str, inputs: int, outputs: int, kernel: int, stride: int, relu: bool = False
    ) -> str:
        weight = self.constant(self.weights((outputs, inputs, kernel, kernel)))
        bias = self.constant(self.bias(outputs))
        pads, strides = [kernel // 2] * 4, [stride, stride]
        y = self.node("Conv", x, weight, bias, pads=pads, strides=strides)
        return self.node("Relu", y) if relu else y
