"""One layer as an ONNX graph of one node, for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.layer_data import OUT_ZERO_POINT, X_ZERO_POINT, LayerData
from benchmarks.peers.onnxruntime import OrtSession

OPSET, IR_VERSION = 21, 10
BLOCK = 32
# Accuracy levels of MatMulNBits: activations become int8 in blocks, or stay float32.
INT8_LEVEL, FLOAT_LEVEL = 4, 1
X_SCALE, W_SCALE = 0.5, 0.25


def one_graph(nodes: list, inputs: dict, outputs: dict, constants: dict) -> bytes:
    """Serialised model; inputs and outputs are ``name: (type, shape)``."""

    def infos(values: dict) -> list:
        return [helper.make_tensor_value_info(n, t, s) for n, (t, s) in values.items()]

    tensors = [numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in constants.items()]
    graph = helper.make_graph(nodes, "layer", infos(inputs), infos(outputs), tensors)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    return model.SerializeToString()


def _scales(data: LayerData) -> dict[str, np.ndarray]:
    """Scales whose quotient is the multiplier."""
    return {
        "x_scale": np.float32(X_SCALE),
        "x_zero": np.uint8(X_ZERO_POINT),
        "w_scale": np.full(data.layer.outputs, W_SCALE, np.float32),
        "w_zero": np.zeros(data.layer.outputs, np.int8),
        "y_scale": np.float32(X_SCALE * W_SCALE / data.multiplier),
        "y_zero": np.uint8(OUT_ZERO_POINT),
    }


def conv_attrs(data: LayerData) -> dict[str, Any]:
    """Attributes of an ONNX convolution."""
    layer = data.layer
    return {
        "kernel_shape": [layer.kernel] * 2,
        "strides": [layer.stride] * 2,
        "pads": list(layer.padding),
        "group": layer.groups,
    }


def _out_shape(data: LayerData, channels_last: bool) -> list[int]:
    layer = data.layer
    if layer.is_matmul:
        return [layer.height, layer.outputs]
    size = -(-layer.height // layer.stride)
    return [1, size, size, layer.outputs] if channels_last else [1, layer.outputs, size, size]


def qlinear_conv(data: LayerData) -> bytes:
    """QLinearConv as ONNX Runtime itself runs it inside a network: channels last."""
    names = ("x", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero", "bias")
    attrs = {**conv_attrs(data), "channels_last": 1, "domain": "com.microsoft"}
    return one_graph(
        [helper.make_node("QLinearConv", names, ["y"], **attrs)],
        {"x": (TensorProto.UINT8, data.layer.x_shape)},
        {"y": (TensorProto.UINT8, _out_shape(data, True))},
        {**_scales(data), "w": data.w.transpose(0, 3, 1, 2), "bias": data.bias},
    )


def qlinear_matmul(data: LayerData) -> bytes:
    """QLinearMatMul: uint8 out, without a bias."""
    names = ("x", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero")
    return one_graph(
        [helper.make_node("QLinearMatMul", names, ["y"])],
        {"x": (TensorProto.UINT8, data.layer.x_shape)},
        {"y": (TensorProto.UINT8, _out_shape(data, True))},
        {**_scales(data), "w": data.w.T},
    )


def matmul_integer(data: LayerData) -> bytes:
    """MatMulInteger: int32 out."""
    return one_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        {"x": (TensorProto.UINT8, data.layer.x_shape)},
        {"y": (TensorProto.INT32, _out_shape(data, True))},
        {"w": data.w.T},
    )


def matmul_nbits(bits: int, level: int = INT8_LEVEL) -> Callable[[LayerData], bytes]:
    """MatMulNBits: float activations, blocks of weights; computed in int8 or in float."""

    def make(data: LayerData) -> bytes:
        outputs, depth = data.layer.w_shape
        rng = np.random.default_rng(0)
        packed = rng.integers(0, 256, (outputs, depth // BLOCK, BLOCK * bits // 8), np.uint8)
        attrs = {"K": depth, "N": outputs, "bits": bits, "block_size": BLOCK}
        return one_graph(
            [
                helper.make_node(
                    "MatMulNBits",
                    ["x", "w", "scales"],
                    ["y"],
                    accuracy_level=level,
                    domain="com.microsoft",
                    **attrs,
                )
            ],
            {"x": (TensorProto.FLOAT, data.layer.x_shape)},
            {"y": (TensorProto.FLOAT, _out_shape(data, True))},
            {"w": packed, "scales": np.full((outputs, depth // BLOCK), 0.01, np.float32)},
        )

    return make


def float_layer(data: LayerData) -> bytes:
    """Conv or MatMul in float32."""
    layer, w = data.layer, data.w.astype(np.float32)
    if layer.is_matmul:
        nodes, x_shape = [helper.make_node("MatMul", ["x", "w"], ["y"])], layer.x_shape
        w = w.T
    else:
        nodes = [helper.make_node("Conv", ["x", "w"], ["y"], **conv_attrs(data))]
        x_shape, w = _channels_first(layer.x_shape), w.transpose(0, 3, 1, 2)
    return one_graph(
        nodes,
        {"x": (TensorProto.FLOAT, x_shape)},
        {"y": (TensorProto.FLOAT, _out_shape(data, False))},
        {"w": w},
    )


def _channels_first(shape: tuple[int, ...]) -> list[int]:
    n, h, w, c = shape
    return [n, c, h, w]


def ort_session(make: Callable[[LayerData], bytes], data: LayerData, threads: int) -> OrtSession:
    """ONNX Runtime with one of the graphs."""
    model = make(data)
    value = onnx.load_from_string(model).graph.input[0]
    shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    x = data.x if shape == list(data.layer.x_shape) else data.x.transpose(0, 3, 1, 2)
    if value.type.tensor_type.elem_type == TensorProto.FLOAT:
        x = x.astype(np.float32)
    return OrtSession(model, {"x": np.ascontiguousarray(x)}, threads)
