"""tvmquant.frontend.qdq_converters: the waist as ONNX defines it."""

import numpy as np
import pytest
from frontend_tools import (
    assert_same,
    bindings,
    calls,
    low_bit,
    make_model,
    node,
    run_onnxruntime,
    run_tvm,
)
from onnx import TensorProto

import tvmquant
from tvmquant.errors import ModelError
from tvmquant.frontend import load_model
from tvmquant.reference import dequantize, quantize

RNG = np.random.default_rng(0)


def u8(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def i8(*shape):
    return RNG.integers(-127, 128, shape, dtype=np.int8)


def f32(value):
    return np.asarray(value, np.float32)


def test_transposed_weights_keep_their_integers():
    """``Gemm(transB=1)`` of a dequantized weight must not hide it behind a transpose."""
    q, scale = i8(7, 16), f32(RNG.uniform(0.01, 0.02, 7))
    nodes = [
        node("DequantizeLinear", "q s", "w", axis=0),
        node("Gemm", "x w b", transB=1, name="fc"),
    ]
    x = RNG.standard_normal((2, 16)).astype(np.float32)
    model = make_model(nodes, {"x": x}, {"q": q, "s": scale, "b": f32(np.ones(7))})
    assert_same(model, {"x": x})
    mod = load_model(model).mod
    weight = calls(mod, "tvmquant.dequantize")[-1]
    np.testing.assert_array_equal(weight.args[0].value.numpy(), q.T)
    assert int(weight.attrs["axis"]) == 1
    assert "relax.permute_dims" not in [op for _, op in bindings(mod)]
    assert ("fc", "relax.matmul") in bindings(mod)


def test_dynamic_quantization():
    nodes = [node("DynamicQuantizeLinear", "x", "q s z"), node("DequantizeLinear", "q s z")]
    x = RNG.standard_normal((2, 16)).astype(np.float32)
    model = make_model(nodes, {"x": x})
    (want,) = run_onnxruntime(model, {"x": x})
    np.testing.assert_array_equal(tvmquant.compile(model).run({"x": x})["y"], want)


LOW_BITS = [("INT4", 4), ("UINT4", 4), ("INT2", 2), ("UINT2", 2)]


@pytest.mark.parametrize("name,bits", LOW_BITS)
def test_low_bit_weights_are_stored_in_bytes(name, bits):
    signed = name.startswith("I")
    low = -(1 << (bits - 1)) if signed else 0
    values = np.arange(low, low + (1 << bits)).reshape(2, -1)
    elem_type = getattr(TensorProto, name)
    nodes = [node("DequantizeLinear", "q s z", "w", axis=0), node("Mul", "x w")]
    x = np.ones(values.shape, np.float32)
    constants = {
        "q": low_bit("q", elem_type, values),
        "s": f32([0.5, 2]),
        "z": low_bit("z", elem_type, [1, 0]),
    }
    model = make_model(nodes, {"x": x}, constants, opset=25)
    want = (values - np.array([[1], [0]])) * np.array([[0.5], [2]])
    np.testing.assert_array_equal(run_tvm(model, {"x": x})[0], want)
    (call,) = calls(load_model(model).mod, "tvmquant.dequantize")
    assert int(call.attrs["bits"]) == bits
    assert str(call.args[0].ty.dtype) == ("int8" if signed else "uint8")


@pytest.mark.parametrize("name,bits", LOW_BITS)
def test_low_bit_results_saturate(name, bits):
    nodes = [node("QuantizeLinear", "x s z")]
    x = np.linspace(-20, 20, 41, dtype=np.float32)
    elem_type = getattr(TensorProto, name)
    constants = {"s": f32(1), "z": low_bit("z", elem_type, 1)}
    model = make_model(nodes, {"x": x}, constants, opset=25, output_types={"y": elem_type})
    signed = name.startswith("I")
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    np.testing.assert_array_equal(run_tvm(model, {"x": x})[0], np.clip(np.rint(x) + 1, low, high))


@pytest.mark.parametrize("axis,blocks", [(0, (2, 6)), (1, (4, 3)), (-1, (4, 3))])
def test_blocked(axis, blocks):
    x = RNG.standard_normal((4, 6)).astype(np.float32)
    scale = f32(RNG.uniform(0.01, 0.1, blocks))
    zero = RNG.integers(-9, 9, blocks, dtype=np.int8)
    attributes = {"axis": axis, "block_size": 2}
    nodes = [
        node("QuantizeLinear", "x s z", "q", **attributes),
        node("DequantizeLinear", "q s z", **attributes),
    ]
    model = make_model(
        nodes, {"x": x}, {"s": scale, "z": zero}, opset=21, outputs=("q", "y"),
        output_types={"q": TensorProto.INT8},
    )  # fmt: skip
    q = quantize(x, scale, zero, qmin=-128, qmax=127, dtype="int8", axis=axis, block_size=2)
    got = run_tvm(model, {"x": x})
    np.testing.assert_array_equal(got[0], q)
    np.testing.assert_array_equal(got[1], dequantize(q, scale, zero, axis=axis, block_size=2))


def test_scale_per_channel_with_one_zero_point():
    x = RNG.standard_normal((2, 3, 4)).astype(np.float32)
    nodes = [node("QuantizeLinear", "x s z", axis=1)]
    scale = f32([0.1, 0.2, 0.3])
    model = make_model(
        nodes, {"x": x}, {"s": scale, "z": np.int8(3)}, output_types={"y": TensorProto.INT8}
    )
    want = quantize(x, scale, 3, qmin=-128, qmax=127, dtype="int8", axis=1)
    np.testing.assert_array_equal(run_tvm(model, {"x": x})[0], want)


def test_missing_zero_point_and_output_dtype():
    x = np.linspace(-300, 300, 7, dtype=np.float32)
    plain = make_model(
        [node("QuantizeLinear", "x s")], {"x": x}, {"s": f32(1)},
        output_types={"y": TensorProto.UINT8},
    )  # fmt: skip
    assert_same(plain, {"x": x})
    asked = make_model(
        [node("QuantizeLinear", "x s", output_dtype=TensorProto.INT16)], {"x": x}, {"s": f32(1)},
        opset=21, output_types={"y": TensorProto.INT16},
    )  # fmt: skip
    assert_same(asked, {"x": x})


def test_integers_of_32_bits():
    x = np.arange(-3, 300, dtype=np.int32)
    model = make_model([node("DequantizeLinear", "x s")], {"x": x}, {"s": f32(0.5)})
    assert_same(model, {"x": x})
    # Not in ONNX Runtime.
    model = make_model(
        [node("QuantizeLinear", "x s")],
        {"x": x},
        {"s": f32(2)},
        output_types={"y": TensorProto.UINT8},
    )
    np.testing.assert_array_equal(run_tvm(model, {"x": x})[0], np.clip(np.rint(x / 2), 0, 255))


@pytest.mark.parametrize("what", ["scale", "result"])
def test_float16_is_widened(what):
    x = np.arange(3, dtype=np.uint8)
    scale = np.float16(0.5) if what == "scale" else f32(0.5)
    attributes = {"output_dtype": TensorProto.FLOAT16} if what == "result" else {}
    model = make_model(
        [node("DequantizeLinear", "x s", name="dq", **attributes)], {"x": x}, {"s": scale},
        opset=23, output_types={"y": TensorProto.FLOAT16},
    )  # fmt: skip
    (y,) = run_tvm(model, {"x": x})
    assert y.dtype == np.float16
    np.testing.assert_array_equal(y, x / 2)


def test_axis_outside_the_rank():
    model = make_model(
        [node("DequantizeLinear", "x s", axis=2, name="dq")], {"x": u8(2, 3)},
        {"s": f32([1, 2, 3])},
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"node 'dq'.*axis 2"):
        load_model(model)
