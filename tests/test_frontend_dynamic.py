"""Models that ONNX Runtime's ``quantize_dynamic`` wrote run in integers here, too."""

import numpy as np
import pytest
from frontend_tools import make_model, node, run_onnxruntime

import tvmquant
from tvmquant.graph import Graph, name_of
from tvmquant.interpreter import Interpreter
from tvmquant.passes.pipeline import to_integers

RNG = np.random.default_rng(0)


def i8(*shape, dtype=np.int8):
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    return RNG.integers(low, high + 1, shape).astype(dtype)


def layer(op, x, name, *, bias="", **attributes):
    """The nodes of one layer; its constants are called ``name`` and something."""
    n = name
    return [
        node("DynamicQuantizeLinear", x, f"{n}q {n}s {n}z", name=f"{n}/quantize"),
        node(op, f"{n}q {n}w {n}z {n}wz", f"{n}i", name=n, **attributes),
        node("Cast", f"{n}i", f"{n}f", name=f"{n}/cast", to=1),
        node("Mul", f"{n}s {n}ws", f"{n}m", name=f"{n}/scales"),
        node("Mul", f"{n}f {n}m", f"{n}y", name=f"{n}/mul"),
        node("Add", f"{n}y {n}b", f"{n}o", name=f"{n}/add"),
    ]


def constants(name, weight, bias_shape, zero=0):
    return {
        f"{name}w": weight,
        f"{name}wz": np.asarray(zero, weight.dtype),
        f"{name}ws": np.asarray(0.01, np.float32),
        f"{name}b": RNG.standard_normal(bias_shape).astype(np.float32),
    }


def counts(mod):
    names = [name_of(value) for _, value in Graph(mod).bindings]
    return {name: names.count(name) for name in set(names)}


def check(model, x):
    quantized = tvmquant.quantize(model)
    mod = to_integers(quantized.mod, quantized.recipe)
    (want,) = run_onnxruntime(model, {"x": x})
    (integers,) = Interpreter(mod).run([x])
    np.testing.assert_allclose(integers, want, rtol=1e-5, atol=1e-5)
    compiled = tvmquant.compile(quantized)
    np.testing.assert_allclose(compiled.run({"x": x})["y"], want, rtol=1e-5, atol=1e-5)
    assert compiled.precision == "w8a8-dynamic"
    return counts(mod)


def test_matrix_products():
    x = (RNG.standard_normal((2, 3, 70)) + 1).astype(np.float32)
    nodes = [*layer("MatMulInteger", "x", "fc"), node("Relu", "fco", "y", name="relu")]
    found = check(make_model(nodes, {"x": x}, constants("fc", i8(70, 24), 24)), x)
    assert found["tvmquant.matmul"] == 1
    assert "tvmquant.dequantize" not in found


@pytest.mark.parametrize("group", [1, 2, 6])
def test_convolutions(group):
    x = (RNG.standard_normal((1, 6, 9, 8)) + 1).astype(np.float32)
    nodes = [
        *layer("ConvInteger", "x", "a", pads=[1, 1, 1, 1], group=group),
        node("Relu", "ao", "r", name="relu"),
        *layer("ConvInteger", "r", "b", strides=[2, 2]),
        node("Identity", "bo", "y", name="end"),
    ]
    weights = {
        **constants("a", i8(12, 6 // group, 3, 3), (1, 12, 1, 1)),
        **constants("b", i8(5, 12, 1, 1), (1, 5, 1, 1)),
    }
    found = check(make_model(nodes, {"x": x}, weights), x)
    assert found["tvmquant.dynamic_conv2d"] == 2
    # The input and the output are permuted, nothing in between.
    assert found["permute_dims"] == 2


def test_weights_that_do_not_fit_signed_bytes_stay_right():
    x = RNG.standard_normal((2, 70)).astype(np.float32)
    nodes = [*layer("MatMulInteger", "x", "fc"), node("Relu", "fco", "y", name="relu")]
    model = make_model(nodes, {"x": x}, constants("fc", i8(70, 24, dtype=np.uint8), 24, zero=100))
    (want,) = run_onnxruntime(model, {"x": x})
    np.testing.assert_allclose(tvmquant.compile(model).run({"x": x})["y"], want, atol=1e-4)


def test_one_scale_a_column():
    x = RNG.standard_normal((2, 70)).astype(np.float32)
    nodes = [*layer("MatMulInteger", "x", "fc"), node("Relu", "fco", "y", name="relu")]
    weights = constants("fc", i8(70, 24), 24)
    weights["fcws"] = RNG.uniform(0.01, 0.1, 24).astype(np.float32)
    weights["fcwz"] = np.zeros(24, np.int8)
    found = check(make_model(nodes, {"x": x}, weights), x)
    assert found["tvmquant.matmul"] == 1
