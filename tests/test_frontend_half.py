"""Models in float16 and bfloat16: computed in float32; inputs and outputs."""

import numpy as np
import pytest
from frontend_tools import make_model, node, run_onnxruntime
from onnx import TensorProto, helper, numpy_helper

import tvmquant
from tvmquant.frontend.half import widen_half
from tvmquant.graph import Graph, name_of
from tvmquant.passes.simplify import simplify
from tvmquant.quant_spec import LayerRule
from tvmquant.recipe import Recipe

RNG = np.random.default_rng(0)
FLOAT = Recipe(layers=(LayerRule("*", quantize=False),))


def f16(*shape):
    return (RNG.standard_normal(shape) / 2).astype(np.float16)


def network(shape=(1, 3, 8, 8)):
    nodes = [
        node("Conv", "x w b", "c", name="conv", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r", name="relu"),
        node("Flatten", "r", "f", name="flat"),
        node("MatMul", "f v", "m", name="fc"),
        node("Constant", "", "k", value=helper.make_tensor("k", TensorProto.FLOAT16, [1], [2.0])),
        node("Mul", "m k", "y", name="twice"),
    ]
    nodes[4].input[:] = []
    constants = {"w": f16(4, 3, 3, 3), "b": f16(4), "v": f16(4 * 64, 10)}
    x = f16(*shape)
    return make_model(nodes, {"x": x}, constants, output_types={"y": TensorProto.FLOAT16}), x


def test_inputs_and_outputs_keep_their_type():
    model, x = network()
    compiled = tvmquant.compile(model, recipe=FLOAT, calibration=[{"x": x}])
    (info,), (out,) = compiled.manifest.inputs, compiled.manifest.outputs
    assert (info.name, info.dtype, out.name, out.dtype) == ("x", "float16", "y", "float16")
    y = compiled.run({"x": x})["y"]
    assert y.dtype == np.float16
    (want,) = run_onnxruntime(model, {"x": x})
    np.testing.assert_allclose(y, want, rtol=0.01, atol=0.02)


def test_layers_are_quantized_like_any_others():
    model, x = network()
    data = [{"x": f16(*x.shape)} for _ in range(4)]
    (want,) = run_onnxruntime(model, {"x": x})
    for options in ({"bits": 8, "calibration": data}, {"recipe": "dynamic"}, {"recipe": "float16"}):
        compiled = tvmquant.compile(model, **options)
        assert {la.weight_bits for la in compiled.manifest.layers if la.macs} <= {8, 16}
        y = compiled.run({"x": x})["y"].astype(np.float32)
        assert np.linalg.norm(y - want) < 0.05 * np.linalg.norm(want.astype(np.float32))


def test_nothing_in_between_is_float16():
    model, _ = network()
    mod = simplify(tvmquant.frontend.load_model(model).mod)
    casts = [v for _, v in Graph(mod).bindings if name_of(v) == "astype"]
    assert [str(v.attrs["dtype"]) for v in casts] == ["float32", "float16"]
    assert all(
        str(var.ty.dtype) == "float32" for var, v in Graph(mod).bindings if name_of(v) == "add"
    )


@pytest.mark.parametrize("to", [TensorProto.FLOAT16, TensorProto.FLOAT])
def test_casts_in_a_mixed_model(to):
    nodes = [
        node("Cast", "x", "h", name="down", to=TensorProto.FLOAT16),
        node("Mul", "h k", "m", name="mul"),
        node("Cast", "m", "y", name="up", to=to),
    ]
    x = RNG.standard_normal((2, 5)).astype(np.float32)
    model = make_model(nodes, {"x": x}, {"k": f16(5)}, output_types={"y": to})
    y = tvmquant.compile(model, recipe=FLOAT, calibration=[{"x": x}]).run({"x": x})["y"]
    (want,) = run_onnxruntime(model, {"x": x})
    assert y.dtype == want.dtype
    np.testing.assert_allclose(y, want, rtol=2e-3)


def test_bfloat16_has_float32_inputs_and_outputs():
    """Its weights are exact; NumPy has no such type."""
    half = TensorProto.BFLOAT16
    w = RNG.standard_normal((16, 5)).astype(np.float32)
    tensor = helper.make_tensor("w", half, w.shape, w.ravel().tolist())
    w = numpy_helper.to_array(tensor).astype(np.float32)
    graph = helper.make_graph(
        [
            node("MatMul", "x w", "m", name="fc"),
            node("Cast", "m", "f", name="up", to=TensorProto.FLOAT),
            node("Relu", "f", "g", name="relu"),
            node("Cast", "g", "y", name="down", to=half),
        ],
        "bfloat16",
        [helper.make_tensor_value_info("x", half, ["n", 16])],
        [helper.make_tensor_value_info("y", half, ["n", 5])],
        [tensor],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    x = RNG.standard_normal((4, 16)).astype(np.float32)
    for options in ({"recipe": FLOAT, "calibration": x[:, None]}, {"bits": "w8a16"}):
        compiled = tvmquant.compile(model, input_shapes={"x": (4, 16)}, **options)
        (info,), (out,) = compiled.manifest.inputs, compiled.manifest.outputs
        assert (info.dtype, out.dtype) == ("float32", "float32")
        np.testing.assert_allclose(compiled(x), np.maximum(x @ w, 0), atol=0.1)


def test_other_models_stay_the_same_object():
    model = make_model([node("Relu", "x", "y")], {"x": np.zeros(3, np.float32)})
    assert widen_half(model) is model
