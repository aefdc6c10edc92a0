"""MatMulNBits and blocked weights of other models, compiled, against ONNX Runtime."""

import numpy as np
import pytest
from frontend_tools import MICROSOFT, low_bit, make_model, node, run_onnxruntime
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

import tvmquant
from tvmquant.errors import UnsupportedOperatorError
from tvmquant.reference import pack_bits


def nbits_model(shape, outputs, bits, block, zero_points=False, bias=False, seed=0, **changes):
    """Model of one MatMulNBits, and an input."""
    rng = np.random.default_rng(seed)
    depth = shape[-1]
    blocks = -(-depth // block)

    def codes(*dims):
        return pack_bits(rng.integers(0, 2**bits, dims).astype(np.uint8), bits)

    constants = {
        "w": codes(outputs, blocks, block),
        "s": rng.uniform(0.01, 0.02, (outputs, blocks)).astype(np.float32),
        "z": codes(outputs, blocks),
        "b": rng.standard_normal(outputs).astype(np.float32),
        **changes,
    }
    inputs = ["x", "w", "s", "z" if zero_points else "_", "_", "b" if bias else "_"]
    while inputs[-1] == "_":
        inputs.pop()
    attributes = {"K": depth, "N": outputs, "bits": bits, "block_size": block}
    layer = node("MatMulNBits", " ".join(inputs), name="fc", domain=MICROSOFT, **attributes)
    x = rng.standard_normal(shape).astype(np.float32)
    used = {name: constants[name] for name in constants if name in inputs}
    return make_model([layer], {"x": x}, used), x


def check(model, x):
    compiled = tvmquant.compile(model)
    assert [layer.operator for layer in compiled.manifest.layers if layer.macs] == [
        "matmul_weight_only"
    ]
    (want,) = run_onnxruntime(model, {"x": x})
    np.testing.assert_allclose(compiled.run({"x": x})["y"], want, rtol=2e-5, atol=2e-5)
    return compiled


@settings(max_examples=12, deadline=None)
@given(
    shape=st.sampled_from([(1, 64), (3, 100), (2, 3, 96)]),
    outputs=st.integers(1, 70),
    bits=st.sampled_from([8, 4, 2]),
    block=st.sampled_from([16, 32, 64]),
    zero_points=st.booleans(),
    bias=st.booleans(),
)
def test_matmul_nbits_equals_onnxruntime(shape, outputs, bits, block, zero_points, bias):
    check(*nbits_model(shape, outputs, bits, block, zero_points, bias))


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_weights_keep_their_bits(bits):
    compiled = check(*nbits_model((1, 256), 64, bits, 32))
    (layer,) = (layer for layer in compiled.manifest.layers if layer.macs)
    assert (layer.weight_bits, layer.name) == (bits, "fc")
    assert compiled.precision == f"w{bits}a32"


def test_blocked_dequantize_before_a_matmul():
    rng = np.random.default_rng(0)
    codes = rng.integers(-8, 8, (64, 20))
    scale = rng.uniform(0.01, 0.02, (2, 20)).astype(np.float32)
    nodes = [
        node("DequantizeLinear", "w s", "d", name="weight", axis=0, block_size=32),
        node("MatMul", "x d", name="fc"),
    ]
    x = rng.standard_normal((3, 64)).astype(np.float32)
    constants = {"w": low_bit("w", TensorProto.INT4, codes), "s": scale}
    check(make_model(nodes, {"x": x}, constants, opset=21), x)


def test_dequantize_per_channel_before_a_gemm():
    rng = np.random.default_rng(1)
    nodes = [
        node("DequantizeLinear", "w s z", "d", name="weight", axis=0),
        node("Gemm", "x d b", name="fc", transB=1),
    ]
    x = rng.standard_normal((3, 64)).astype(np.float32)
    constants = {
        "w": rng.integers(0, 256, (20, 64), dtype=np.uint8),
        "s": rng.uniform(0.01, 0.02, 20).astype(np.float32),
        "z": rng.integers(100, 150, 20, dtype=np.uint8),
        "b": rng.standard_normal(20).astype(np.float32),
    }
    check(make_model(nodes, {"x": x}, constants), x)


def test_float_zero_points_are_refused():
    zeros = {"z": np.zeros((8, 2), np.float32)}
    model, _ = nbits_model((1, 64), 8, 4, 32, zero_points=True, **zeros)
    with pytest.raises(UnsupportedOperatorError, match=r"'fc' .* zero points of float32"):
        tvmquant.compile(model)


def test_weights_must_be_constant():
    model, _ = nbits_model((1, 64), 8, 4, 32)
    del model.graph.initializer[:]
    weights = make_model([], {"w": np.zeros((8, 2, 16), np.uint8), "s": np.ones(16, np.float32)})
    model.graph.input.extend(weights.graph.input)
    with pytest.raises(UnsupportedOperatorError, match=r"'fc' .* weights must be constant"):
        tvmquant.compile(model)
