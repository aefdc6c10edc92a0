"""Quantized ONNX operators become float operators between QuantizeLinear and DequantizeLinear.

``QLinearConv(x, w)`` is ``Quantize(Conv(Dequantize(x), Dequantize(w)))``, and
``MatMulInteger(a, b)`` is ``Cast(MatMul(Dequantize(a, 1), Dequantize(b, 1)))``: the graph arrives
at the QDQ waist with the exact integers of the file, and ``realize`` computes in integers again.
The float operator keeps the name of the node it comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tvmquant.errors import UnsupportedOperatorError
from tvmquant.frontend.onnx_model import graph_inputs
from tvmquant.reference import unpack_bits

_MICROSOFT = "com.microsoft"


def lower_quantized(model: ModelProto) -> ModelProto:
    """Replace the operators of :data:`LOWERED` and :data:`LOWERED_MICROSOFT`.

    Returns
    -------
    onnx.ModelProto
        A copy; quantized operators are left as QuantizeLinear, DequantizeLinear and
        DynamicQuantizeLinear only.
    """
    lowered = ModelProto()
    lowered.CopyFrom(model)
    builder = _Builder(lowered)
    for node in model.graph.node:
        table = LOWERED_MICROSOFT if node.domain == _MICROSOFT else LOWERED
        rule = table.get(node.op_type)
        if rule is None:
            builder.nodes.append(node)
        else:
            builder.start(node)
            rule(builder, node)
    del lowered.graph.node[:]
    lowered.graph.node.extend(builder.nodes)
    lowered.graph.initializer.extend(builder.constants)
    return lowered


class _Builder:
    """Collects the new nodes; new values are called after the output of the replaced node."""

    def __init__(self, model: ModelProto) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.tensors = {t.name: t for t in model.graph.initializer}
        self.known = {t.name: (t.data_type, list(t.dims)) for t in model.graph.initializer}
        for value in (*graph_inputs(model.graph), *model.graph.value_info):
            kind = value.type.tensor_type
            self.known[value.name] = (kind.elem_type, [d.dim_value for d in kind.shape.dim])
        self.node = NodeProto()

    def start(self, node: NodeProto) -> None:
        self.node = node

    def argument(self, index: int) -> str:
        """Input of the replaced node, "" when it is absent."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def array(self, index: int, what: str) -> np.ndarray | None:
        """Constant input of the replaced node, ``None`` when it is absent."""
        name = self.argument(index)
        if name and name not in self.tensors:
            raise UnsupportedOperatorError(
                f"node '{self.node.name}' ({self.node.op_type}): its {what} must be constant"
            )
        return numpy_helper.to_array(self.tensors[name]) if name else None

    def emit(
        self, op: str, inputs: Sequence[str], suffix: str, *, output: str = "", **attributes: object
    ) -> str:
        name = f"{self.node.name}/{suffix}" if suffix else self.node.name
        output = output or f"{self.node.output[0]}/{suffix or 'float'}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def constant(self, array: np.ndarray, suffix: str) -> str:
        name = f"{self.node.output[0]}/{suffix}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def dequantize(
        self,
        q: str,
        scale: str,
        zero_point: str,
        suffix: str,
        *,
        axis: int | None = None,
        block_size: int = 0,
    ) -> str:
        inputs = [q, scale] + ([zero_point] if zero_point else [])
        attributes = {} if axis is None else {"axis": axis}
        if block_size:
            attributes["block_size"] = block_size
        return self.emit("DequantizeLinear", inputs, f"dequantize_{suffix}", **attributes)

    def integers(self, q: str, zero_point: str, suffix: str, *, axis: int) -> str:
        """``float(q - zero_point)``: dequantize with scale one."""
        dims = self.known.get(zero_point, (None, []))[1] if zero_point else []
        one = self.constant(np.ones(dims, np.float32), f"{suffix}_one")
        return self.dequantize(q, one, zero_point, suffix, axis=axis)

    def float_op(self, op: str, inputs: Sequence[str], attributes: dict[str, object]) -> str:
        return self.emit(op, inputs, "", **attributes)

    def quantize(self, x: str, scale: str, zero_point: str, *, axis: int | None = None) -> None:
        inputs = [x, scale] + ([zero_point] if zero_point else [])
        attributes = {} if axis is None else {"axis": axis}
        self.emit("QuantizeLinear", inputs, "quantize", output=self.node.output[0], **attributes)


def _attributes(node: NodeProto, *dropped: str) -> dict[str, object]:
    found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {name: value for name, value in found.items() if name not in dropped}


def _qlinear_conv(b: _Builder, node: NodeProto) -> None:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias = map(b.argument, range(9))
    inputs = [
        b.dequantize(x, x_scale, x_zero, "x"),
        b.dequantize(w, w_scale, w_zero, "w", axis=0),
    ]
    if bias:
        product = b.emit("Mul", [x_scale, w_scale], "bias_scale")
        inputs.append(b.dequantize(bias, product, "", "bias", axis=0))
    y = b.float_op("Conv", inputs, _attributes(node, "channels_last"))
    b.quantize(y, y_scale, y_zero)


def _conv_integer(b: _Builder, node: NodeProto) -> None:
    x, w, x_zero, w_zero = map(b.argument, range(4))
    inputs = [b.integers(x, x_zero, "x", axis=1), b.integers(w, w_zero, "w", axis=0)]
    y = b.float_op("Conv", inputs, _attributes(node))
    b.emit("Cast", [y], "cast", output=node.output[0], to=TensorProto.INT32)


def _matmul_integer(b: _Builder, node: NodeProto) -> None:
    a, w, a_zero, w_zero = map(b.argument, range(4))
    # One zero point a row of the left and a column of the right matrix.
    inputs = [b.integers(a, a_zero, "a", axis=-2), b.integers(w, w_zero, "b", axis=-1)]
    y = b.float_op("MatMul", inputs, {})
    b.emit("Cast", [y], "cast", output=node.output[0], to=TensorProto.INT32)


def _qlinear_matmul(b: _Builder, node: NodeProto) -> None:
    a, a_scale, a_zero, w, w_scale, w_zero, y_scale, y_zero = map(b.argument, range(8))
    inputs = [
        b.dequantize(a, a_scale, a_zero, "a", axis=-2),
        b.dequantize(w, w_scale, w_zero, "b", axis=-1),
    ]
    b.quantize(b.float_op("MatMul", inputs, {}), y_scale, y_zero, axis=-2)


def _qgemm(b: _Builder, node: NodeProto) -> None:
    a, a_scale, a_zero, w, w_scale, w_zero, c, y_scale, y_zero = map(b.argument, range(9))
    attributes = _attributes(node)
    column = 0 if attributes.get("transB") else 1
    inputs = [
        b.dequantize(a, a_scale, a_zero, "a"),
        b.dequantize(w, w_scale, w_zero, "b", axis=column),
    ]
    if c:
        # The file's bias is in units of alpha * a_scale * b_scale.
        product = b.emit("Mul", [a_scale, w_scale], "scales")
        alpha = b.constant(np.float32(attributes.get("alpha", 1.0)), "alpha")
        bias_scale = b.emit("Mul", [product, alpha], "bias_scale")
        inputs.append(b.dequantize(c, bias_scale, "", "bias", axis=-1))
    if y_scale:
        b.quantize(b.float_op("Gemm", inputs, attributes), y_scale, y_zero)
    else:
        b.emit("Gemm", inputs, "", output=node.output[0], **attributes)


def _matmul_nbits(b: _Builder, node: NodeProto) -> None:
    attributes = _attributes(node)
    if b.argument(4):
        raise UnsupportedOperatorError(
            f"node '{node.name}' (MatMulNBits) reorders its inputs by g_idx, which is not supported"
        )
    depth, outputs, block = (int(attributes[key]) for key in ("K", "N", "block_size"))
    bits = int(attributes.get("bits", 4))
    blocks = -(-depth // block)
    if bits not in (8, 4, 2):
        raise UnsupportedOperatorError(
            f"node '{node.name}' (MatMulNBits) has weights of {bits} bits; tvmquant imports 8, 4, 2"
        )
    packed, scale = b.array(1, "weights"), b.array(2, "scales").astype(np.float32)
    weights = unpack_bits(packed.reshape(outputs, -1), bits, blocks * block)[:, :depth]
    zero = b.array(3, "zero points")
    if zero is None:
        zero = np.full((outputs, blocks), 2 ** (bits - 1), np.uint8)
    elif zero.dtype != np.uint8:
        raise UnsupportedOperatorError(
            f"node '{node.name}' (MatMulNBits) has zero points of {zero.dtype}; only packed uint8 "
            "is supported"
        )
    else:
        zero = unpack_bits(zero.reshape(outputs, -1), bits, blocks)
    constants = {"w": weights, "scale": scale.reshape(outputs, blocks), "zero": zero}
    names = [b.constant(np.ascontiguousarray(a.T), f"w_{key}") for key, a in constants.items()]
    w = b.dequantize(*names, "w", axis=0, block_size=block)
    bias = b.argument(5)
    if not bias:
        b.emit("MatMul", [b.argument(0), w], "", output=node.output[0])
        return
    product = b.emit("MatMul", [b.argument(0), w], "")
    b.emit("Add", [product, bias], "bias", output=node.output[0])


def _binary(op: str) -> Callable[[_Builder, NodeProto], None]:
    def rule(b: _Builder, node: NodeProto) -> None:
        left, right = map(b.argument, range(3)), map(b.argument, range(3, 6))
        inputs = [b.dequantize(*left, "a"), b.dequantize(*right, "b")]
        b.quantize(b.float_op(op, inputs, {}), b.argument(6), b.argument(7))

    return rule


def _unary(op: str) -> Callable[[_Builder, NodeProto], None]:
    def rule(b: _Builder, node: NodeProto) -> None:
        if _attributes(node).get("channels_last"):
            raise UnsupportedOperatorError(
                f"node '{node.name}' ({node.op_type}) has channels_last=1, which is not supported: "
                "write the model without ONNX Runtime's layout optimization"
            )
        x = b.dequantize(*map(b.argument, range(3)), "x")
        attributes = _attributes(node, "channels_last", "opset")
        b.quantize(b.float_op(op, [x], attributes), b.argument(3), b.argument(4))

    return rule


def _qlinear_concat(b: _Builder, node: NodeProto) -> None:
    count = (len(node.input) - 2) // 3
    inputs = [
        b.dequantize(*(b.argument(2 + 3 * i + j) for j in range(3)), f"x{i}") for i in range(count)
    ]
    b.quantize(b.float_op("Concat", inputs, _attributes(node)), b.argument(0), b.argument(1))


def _standard(b: _Builder, node: NodeProto) -> None:
    """QuantizeLinear and DequantizeLinear of ONNX Runtime's domain mean the same."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.domain = ""
    b.nodes.append(copy)


Rule = Callable[[_Builder, NodeProto], None]

LOWERED: dict[str, Rule] = {
    "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _qlinear_matmul,
    "ConvInteger": _conv_integer,
    "MatMulInteger": _matmul_integer,
}

LOWERED_MICROSOFT: dict[str, Rule] = {
    "QuantizeLinear": _standard,
    "DequantizeLinear": _standard,
    "QGemm": _qgemm,
    "MatMulNBits": _matmul_nbits,
    "QLinearAdd": _binary("Add"),
    "QLinearMul": _binary("Mul"),
    "QLinearAveragePool": _unary("AveragePool"),
    "QLinearGlobalAveragePool": _unary("GlobalAveragePool"),
    "QLinearLeakyRelu": _unary("LeakyRelu"),
    "QLinearSigmoid": _unary("Sigmoid"),
    "QLinearSoftmax": _unary("Softmax"),
    "QLinearConcat": _qlinear_concat,
}
