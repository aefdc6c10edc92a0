"""tvmquant.frontend.qdq: quantized operators against ONNX Runtime."""

import numpy as np
import pytest
from frontend_tools import (
    MICROSOFT,
    assert_same,
    bindings,
    calls,
    make_model,
    node,
    op_types,
    run_onnxruntime,
    run_tvm,
)
from onnx import TensorProto

from tvmquant.errors import UnsupportedOperatorError
from tvmquant.frontend import load_model
from tvmquant.frontend.qdq import lower_quantized

RNG = np.random.default_rng(0)


def u8(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def i8(*shape):
    return RNG.integers(-127, 128, shape, dtype=np.int8)


def f32(value):
    return np.asarray(value, np.float32)


def within_one(model, feeds):
    """Integer results agree; a tie may round to either side."""
    for got, want in zip(run_tvm(model, feeds), run_onnxruntime(model, feeds), strict=True):
        assert got.dtype == want.dtype
        difference = np.abs(got.astype(int) - want.astype(int))
        assert difference.max() <= 1
        assert (difference == 0).mean() > 0.98


CONV_CONSTANTS = {
    "xs": f32(0.02),
    "xz": np.uint8(120),
    "w": i8(6, 4, 3, 3),
    "ws": f32(RNG.uniform(0.01, 0.02, 6)),
    "wz": np.zeros(6, np.int8),
    "ys": f32(0.5),
    "yz": np.uint8(100),
    "b": RNG.integers(-999, 999, 6, dtype=np.int32),
}


def qlinear_conv(**attributes):
    conv = node("QLinearConv", "x xs xz w ws wz ys yz b", name="conv1", **attributes)
    return make_model(
        [conv], {"x": u8(1, 4, 8, 8)}, CONV_CONSTANTS, output_types={"y": TensorProto.UINT8}
    )


@pytest.mark.parametrize("attributes", [{}, {"pads": [1, 1, 1, 1], "strides": [2, 2]}])
def test_qlinear_conv(attributes):
    within_one(qlinear_conv(**attributes), {"x": u8(1, 4, 8, 8)})


def test_qlinear_conv_arrives_at_the_waist_with_its_integers():
    mod = load_model(qlinear_conv()).mod
    assert ("conv1", "relax.nn.conv2d") in bindings(mod)
    weight, bias = calls(mod, "tvmquant.dequantize")[1:]
    np.testing.assert_array_equal(weight.args[0].value.numpy(), CONV_CONSTANTS["w"])
    np.testing.assert_array_equal(weight.args[1].value.numpy(), CONV_CONSTANTS["ws"])
    assert int(weight.attrs["axis"]) == 0
    np.testing.assert_array_equal(bias.args[0].value.numpy(), CONV_CONSTANTS["b"])
    product = CONV_CONSTANTS["xs"] * CONV_CONSTANTS["ws"]
    np.testing.assert_array_equal(bias.args[1].value.numpy(), product)
    (result,) = calls(mod, "tvmquant.quantize")
    assert (int(result.attrs["qmin"]), int(result.attrs["qmax"])) == (0, 255)


def test_conv_integer_is_exact():
    conv = node("ConvInteger", "x w xz wz", pads=[1, 1, 1, 1])
    constants = {"w": u8(6, 4, 3, 3), "xz": np.uint8(120), "wz": np.uint8(128)}
    x = u8(1, 4, 8, 8)
    model = make_model([conv], {"x": x}, constants, output_types={"y": TensorProto.INT32})
    assert_same(model, {"x": x}, rtol=0, atol=0)


@pytest.mark.parametrize("zero_points", ["", "az", "az bz"])
def test_matmul_integer_is_exact(zero_points):
    a = u8(3, 5, 16)
    constants = {"b": i8(16, 7), "az": np.uint8(99), "bz": i8(7)}
    used = {"b": constants["b"], **{name: constants[name] for name in zero_points.split()}}
    matmul = node("MatMulInteger", f"a b {zero_points}")
    model = make_model([matmul], {"a": a}, used, output_types={"y": TensorProto.INT32})
    assert_same(model, {"a": a}, rtol=0, atol=0)


@pytest.mark.parametrize("a_zero", [[3, 5, 7], [[[3], [5], [7]], [[1], [2], [4]]]])
def test_matmul_integer_with_zero_points_a_row(a_zero):
    """Not in ONNX Runtime; the specification allows it."""
    a, b = u8(2, 3, 4), u8(4, 5)
    a_zero = np.array(a_zero, np.uint8)
    matmul = node("MatMulInteger", "a b az")
    model = make_model(
        [matmul], {"a": a}, {"b": b, "az": a_zero}, output_types={"y": TensorProto.INT32}
    )
    wide = a_zero[:, None] if a_zero.ndim == 1 else a_zero
    want = (a.astype(int) - wide) @ b.astype(int)
    np.testing.assert_array_equal(run_tvm(model, {"a": a})[0], want)


def test_qlinear_matmul():
    constants = {
        "as_": f32(0.02), "az": np.uint8(100), "b": i8(16, 7), "bs": f32(0.01), "bz": np.int8(0),
        "ys": f32(0.05), "yz": np.uint8(128),
    }  # fmt: skip
    matmul = node("QLinearMatMul", "a as_ az b bs bz ys yz")
    a = u8(5, 16)
    within_one(
        make_model([matmul], {"a": a}, constants, output_types={"y": TensorProto.UINT8}), {"a": a}
    )


# Odd scales: round ones make many ties.
QUANTIZED_INPUT = {"xs": f32(0.0513), "xz": np.uint8(128), "ys": f32(0.0607), "yz": np.uint8(120)}


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_microsoft_binary(op):
    constants = {**QUANTIZED_INPUT, "b": u8(40), "bs": f32(0.0317), "bz": np.uint8(100)}
    nodes = [node(op, "x xs xz b bs bz ys yz", domain=MICROSOFT)]
    x = u8(30, 40)
    within_one(
        make_model(nodes, {"x": x}, constants, output_types={"y": TensorProto.UINT8}), {"x": x}
    )


@pytest.mark.parametrize(
    "op,attributes",
    [
        ("QLinearSigmoid", {}),
        ("QLinearLeakyRelu", {"alpha": 0.1}),
        ("QLinearSoftmax", {"axis": -1, "opset": 13}),
        ("QLinearGlobalAveragePool", {"channels_last": 0}),
        ("QLinearAveragePool", {"kernel_shape": [2, 2]}),
    ],
)
def test_microsoft_unary(op, attributes):
    constants = dict(QUANTIZED_INPUT)
    if op in ("QLinearSigmoid", "QLinearSoftmax"):
        constants.update(ys=f32(1 / 256), yz=np.uint8(0))
    nodes = [node(op, "x xs xz ys yz", domain=MICROSOFT, **attributes)]
    x = u8(1, 30, 8, 8)
    within_one(
        make_model(nodes, {"x": x}, constants, output_types={"y": TensorProto.UINT8}), {"x": x}
    )


def test_channels_last_pooling_is_refused():
    attributes = {"domain": MICROSOFT, "channels_last": 1, "name": "p"}
    nodes = [node("QLinearGlobalAveragePool", "x xs xz ys yz", **attributes)]
    model = make_model(
        nodes, {"x": u8(1, 4, 4, 3)}, QUANTIZED_INPUT, output_types={"y": TensorProto.UINT8}
    )
    with pytest.raises(UnsupportedOperatorError, match=r"'p'.*channels_last"):
        load_model(model)


def test_microsoft_concat():
    constants = {**QUANTIZED_INPUT, "bs": f32(0.0317), "bz": np.uint8(100)}
    nodes = [node("QLinearConcat", "ys yz x xs xz b bs bz", domain=MICROSOFT, axis=1)]
    feeds = {"x": u8(2, 3), "b": u8(2, 4)}
    within_one(make_model(nodes, feeds, constants, output_types={"y": TensorProto.UINT8}), feeds)


@pytest.mark.parametrize("output", ["ys yz", ""])
def test_microsoft_gemm(output):
    constants = {
        "as_": f32(0.02), "az": np.uint8(100), "b": i8(7, 16), "bs": f32(0.01), "bz": np.int8(0),
        "c": RNG.integers(-999, 999, 7, dtype=np.int32),
    }  # fmt: skip
    if output:
        constants.update(ys=f32(0.05), yz=np.uint8(128))
    nodes = [node("QGemm", f"a as_ az b bs bz c {output}", domain=MICROSOFT, transB=1)]
    a = u8(5, 16)
    kind = TensorProto.UINT8 if output else TensorProto.FLOAT
    model = make_model(nodes, {"a": a}, constants, output_types={"y": kind})
    if output:
        within_one(model, {"a": a})
    else:
        assert_same(model, {"a": a})


def test_float_models_are_left_alone():
    model = make_model([node("Relu", "x", name="r")], {"x": np.zeros((1, 3), np.float32)})
    assert op_types(lower_quantized(model)) == ["Relu"]
