"""Lowerings of our own for softmax, sigmoid and resize: against NumPy and ONNX Runtime."""

import math

import numpy as np
import onnxruntime
import pytest
from compute_tools import assert_same, codes
from onnx import TensorProto, helper
from run_relax import run
from tvm import relax, te

from tvmquant.schedules.compute.exponential import exp_te


def test_exp_of_softmax():
    x = np.linspace(-87, 0, 5000, dtype=np.float32).reshape(5, 1000)

    def body(_, v):
        def define(a):
            return te.compute(a.shape, lambda *i: exp_te(a(*i)), name="out")

        return relax.BlockBuilder.current().call_te(define, v)

    np.testing.assert_allclose(run([x], body), np.exp(x.astype(np.float64)), rtol=4e-7)


@pytest.mark.parametrize(
    "shape,axis", [((3, 31), -1), ((3, 32), -1), ((2, 3, 97), -1), ((3, 5, 7), 1), ((9,), 0)]
)
def test_softmax(shape, axis):
    x = np.random.default_rng(1).normal(0, 5, shape).astype(np.float32)
    x.flat[3] = -np.inf  # a masked position
    power = np.exp(x.astype(np.float64) - x.max(axis, keepdims=True))
    want = power / power.sum(axis, keepdims=True)
    got = run([x], lambda _, v: relax.op.nn.softmax(v, axis))
    np.testing.assert_allclose(got, want, rtol=5e-6, atol=1e-30)


@pytest.mark.parametrize("gated", [False, True])
def test_sigmoid_and_silu(gated):
    x = np.linspace(-100, 100, 4001, dtype=np.float32)
    op = relax.op.nn.silu if gated else relax.op.sigmoid
    exact = x.astype(np.float64)
    want = (exact if gated else 1) / (1 + np.exp(-exact))
    np.testing.assert_allclose(run([x], lambda _, v: op(v)), want, rtol=1e-6, atol=1e-35)


def test_erf():
    x = np.concatenate([np.linspace(-6, 6, 20001), [0.0, -0.0, 1e-30, -1e-30, 1, -1, 40, -1e30]])
    x = np.concatenate([x, [np.inf, -np.inf, np.nan]]).astype(np.float32)
    want = [math.erf(value) for value in x]
    got = run([x], lambda _, v: relax.op.erf(v))
    np.testing.assert_allclose(got, want, rtol=6e-7)


def onnx_resize(x, target, mode, rounding, method="nearest"):
    node = helper.make_node(
        "Resize",
        ["x", "", "", "s"],
        ["y"],
        mode=method,
        coordinate_transformation_mode=mode,
        nearest_mode=rounding,
    )
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", kind, x.shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        [helper.make_tensor("s", TensorProto.INT64, [4], [*x.shape[:2], *target])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


@pytest.mark.parametrize(
    "mode", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
)
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_resize_nearest_equals_onnxruntime(mode, rounding):
    rng = np.random.default_rng(2)
    for size, target in [((7, 5), (14, 15)), ((13, 9), (29, 4)), ((3, 3), (1, 2))]:
        x = codes(rng, 1, 3, *size)
        want = onnx_resize(x, target, mode, rounding)
        for layout, order in (("NCHW", (0, 1, 2, 3)), ("NHWC", (0, 2, 3, 1))):
            attrs = {
                "layout": layout,
                "method": "nearest_neighbor",
                "coordinate_transformation_mode": mode,
                "rounding_method": rounding,
            }
            got = run(
                [x.transpose(order)],
                lambda _, v, attrs=attrs, target=target: relax.op.image.resize2d(
                    v, relax.ShapeExpr(target), **attrs
                ),
            )
            assert_same(got, want.transpose(order))


@pytest.mark.parametrize("mode", ["half_pixel", "align_corners", "asymmetric"])
def test_resize_linear_equals_onnxruntime(mode):
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    for target in ((7, 13), (3, 5), (2, 9)):
        want = onnx_resize(x, target, mode, "floor", "linear")
        for layout, order in (("NCHW", (0, 1, 2, 3)), ("NHWC", (0, 2, 3, 1))):
            got = run(
                [np.ascontiguousarray(x.transpose(order))],
                lambda _, v, layout=layout, target=target: relax.op.image.resize2d(
                    v,
                    relax.ShapeExpr(list(target)),
                    layout=layout,
                    method="linear",
                    coordinate_transformation_mode=mode,
                ),
            )
            np.testing.assert_allclose(got, want.transpose(order), rtol=1e-5, atol=1e-5)
