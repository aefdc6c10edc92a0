"""Every lowered integer operator equals its NumPy reference bit for bit."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from run_relax import const, run
from tvm import relax, te

from tvmquant import reference as ref
from tvmquant.ops import make_call, waist
from tvmquant.schedules.compute import OutputSpec, requantize_te
from tvmquant.schedules.compute.exponential import exp_te

few = settings(max_examples=12, deadline=None, derandomize=True)
flavours = st.sampled_from(ref.FLAVOURS)
seeds = st.integers(0, 2**32 - 1)
small = st.integers(1, 6)
channels = st.sampled_from([1, 3, 16, 24, 61, 64, 70])
zero_points = st.integers(0, 255)


def codes(rng, *shape, high=256):
    return rng.integers(0, high, shape).astype(np.uint8)


def out_attrs(flavour, zero_point, qmax=255):
    return {
        "requantize": flavour,
        "out_zero_point": zero_point,
        "out_min": 0,
        "out_max": qmax,
        "name": "layer",
    }


def reference_attrs(attrs):
    kept = {k: v for k, v in attrs.items() if k not in ("name", "requantize")}
    return {**kept, "requantize_flavour": attrs["requantize"]}


def assert_same(got, want):
    assert got.dtype == want.dtype and got.shape == want.shape
    np.testing.assert_array_equal(got, want)


@few
@given(seeds, flavours, zero_points, st.sampled_from([255, 15, 3]), channels, st.booleans())
def test_add(seed, flavour, zero_point, qmax, c, broadcast):
    rng = np.random.default_rng(seed)
    a, b = codes(rng, 1, 3, 5, c), codes(rng, *((1, 1, 1, c) if broadcast else (1, 3, 5, c)))
    params = ref.make_requantize_params(np.array([rng.uniform(1e-5, 1e-3)]), flavour)
    scales = {
        "a_zero_point": int(rng.integers(256)),
        "b_zero_point": int(rng.integers(256)),
        "a_multiplier": int(rng.integers(-(2**22), 2**22)),
        "b_multiplier": int(rng.integers(-(2**12), 2**12)),
    }
    attrs = {**scales, **out_attrs(flavour, min(zero_point, qmax), qmax)}
    got = run(
        [a, b], lambda _, x, y: make_call("tvmquant.add", [x, y, *map(const, params)], **attrs)
    )
    assert_same(got, ref.add(a, b, params, **reference_attrs(attrs)))


@few
@given(seeds, flavours, zero_points, channels)
def test_multiply_by_a_channel_gate(seed, flavour, zero_point, c):
    rng = np.random.default_rng(seed)
    a, b = codes(rng, 1, 4, 3, c), codes(rng, 1, 1, 1, c)
    params = ref.make_requantize_params(np.array([rng.uniform(1e-4, 1e-1)]), flavour)
    attrs = {"a_zero_point": 7, "b_zero_point": 131, **out_attrs(flavour, zero_point)}
    got = run(
        [a, b], lambda _, x, y: make_call("tvmquant.multiply", [x, y, *map(const, params)], **attrs)
    )
    assert_same(got, ref.multiply(a, b, params, **reference_attrs(attrs)))


@pytest.mark.parametrize("flavour", ["float", "fixed_point", "power_of_two", "dequantize"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_requantize_extremes(flavour, per_channel):
    """Accumulators at the ends of int32 and multipliers from tiny to large."""
    rng = np.random.default_rng(5)
    edges = np.array([-(2**31), 2**31 - 1, -(2**31) + 1, 0, 1, -1, 2**14, -(2**14), 2**24 + 1])
    acc = rng.integers(-(2**31), 2**31, (200, 16))
    acc[:9] = edges[:, None]
    acc[9:100] >>= rng.integers(8, 31, (91, 16))
    acc = acc.astype(np.int32)
    multiplier = np.exp2(rng.uniform(-31, 17, 16)) if per_channel else np.array([2.0**-9 * 1.37])
    params = ref.make_requantize_params(multiplier, flavour)
    spec = OutputSpec(flavour, 11, 0, 200)

    def body(emit, x, *rest):
        def define(a, *p):
            return te.compute(a.shape, lambda *i: requantize_te(a(*i), p, spec, i), name="out")

        return relax.BlockBuilder.current().call_te(define, x, *rest)

    got = run([acc, *params], body)
    want = ref.requantize(acc, params, flavour, 11, 0, 200)
    assert_same(got, want)
    assert len(np.unique(got)) > 10


@few
@given(seeds, st.sampled_from([None, 3, 1, -1]), st.sampled_from([np.uint8, np.float32]), channels)
def test_lut(seed, axis, dtype, c):
    rng = np.random.default_rng(seed)
    x = codes(rng, 2, 5, 3, c)
    rows = () if axis is None else (x.shape[axis],)
    table = rng.integers(0, 256, (*rows, 256)).astype(dtype)
    attrs = {"axis": -1 if axis is None else axis}
    got = run([x], lambda _, v: make_call("tvmquant.lut", [v, const(table)], **attrs))
    assert_same(got, ref.lut(x, table, attrs["axis"]))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_flip_sign(dtype):
    x = np.arange(256).astype(np.uint8).view(dtype).reshape(4, 64)
    got = run([x], lambda _, v: make_call("tvmquant.flip_sign", [v]))
    want = (x.astype(np.int32) + (-128 if dtype is np.uint8 else 128)).astype(
        np.int8 if dtype is np.uint8 else np.uint8
    )
    assert_same(got, want)


@st.composite
def windows(draw):
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilation = draw(st.sampled_from([(1, 1), (2, 1)]))
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
    padding = [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
    return {
        "pool_size": list(kernel),
        "strides": list(draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))),
        "padding": padding,
        "dilation": list(dilation),
        "ceil_mode": draw(st.booleans()),
    }, [draw(st.integers(s, 9)) for s in span]


@few
@given(seeds, windows(), channels)
def test_max_pool2d(seed, window, c):
    attrs, size = window
    x = codes(np.random.default_rng(seed), 2, *size, c)
    got = run([x], lambda _, v: make_call("tvmquant.max_pool2d", [v], **attrs))
    assert_same(got, ref.max_pool2d(x, **attrs))


@few
@given(seeds, windows(), channels, flavours, zero_points)
def test_avg_pool2d(seed, window, c, flavour, zero_point):
    attrs, size = window
    rng = np.random.default_rng(seed)
    x = codes(rng, 1, *size, c)
    oh, ow = ref.max_pool2d(x, **attrs).shape[1:3]
    params = ref.make_requantize_params(rng.uniform(0.02, 0.5, (oh, ow, 1)), flavour)
    attrs = {**attrs, "x_zero_point": zero_point, **out_attrs(flavour, 17)}
    got = run([x], lambda _, v: make_call("tvmquant.avg_pool2d", [v, *map(const, params)], **attrs))
    assert_same(got, ref.avg_pool2d(x, params, **reference_attrs(attrs)))


def test_avg_pool2d_large_window_leaves_16_bits():
    x = np.full((1, 20, 20, 16), 255, np.uint8)
    window = {
        "pool_size": [20, 20],
        "strides": [1, 1],
        "padding": [0] * 4,
        "dilation": [1, 1],
        "ceil_mode": False,
    }
    attrs = {**window, "x_zero_point": 0, **out_attrs("none", 0)}
    got = run([x], lambda _, v: make_call("tvmquant.avg_pool2d", [v], **attrs))
    assert_same(got, np.full((1, 1, 1, 16), 400 * 255, np.int32))


@few
@given(
    seeds,
    st.sampled_from([[1, 2], [3], [-1], [0, 1, 2, 3], [1]]),
    st.booleans(),
    channels,
    flavours,
    zero_points,
)
def test_mean(seed, axis, keepdims, c, flavour, zero_point):
    rng = np.random.default_rng(seed)
    x = codes(rng, 2, 7, 6, c)
    params = ref.make_requantize_params(np.array([rng.uniform(0.001, 0.1)]), flavour)
    attrs = {
        "axis": axis,
        "keepdims": keepdims,
        "x_zero_point": zero_point,
        **out_attrs(flavour, 5),
    }
    got = run([x], lambda _, v: make_call("tvmquant.mean", [v, *map(const, params)], **attrs))
    assert_same(got, np.asarray(ref.mean(x, params, **reference_attrs(attrs))))


@few
@given(
    seeds,
    st.sampled_from([((2, 3), (2, 3)), ((3,), ()), ((1, 2), (2, 1)), ((), ())]),
    st.tuples(*[st.sampled_from([1, 5, 16, 37, 64])] * 3),
    flavours,
    zero_points,
    zero_points,
)
def test_batch_matmul(seed, batch, mkn, flavour, za, zb):
    rng = np.random.default_rng(seed)
    m, k, n = mkn
    a, b = codes(rng, *batch[0], m, k), codes(rng, *batch[1], k, n)
    params = ref.make_requantize_params(np.array([rng.uniform(1e-4, 1e-2)]), flavour)
    attrs = {"a_zero_point": za, "b_zero_point": zb, **out_attrs(flavour, 100)}
    got = run(
        [a, b],
        lambda _, x, y: make_call("tvmquant.batch_matmul", [x, y, *map(const, params)], **attrs),
    )
    assert_same(got, ref.batch_matmul(a, b, params, **reference_attrs(attrs)))


RANGES = {"int8": (-128, 127), "uint8": (0, 15), "int16": (-32768, 32767), "uint16": (0, 65535)}


def grouping(rng, kind, shape):
    """Scales, zero-point shape and attributes of a granularity."""
    axis = 1
    if kind == "scalar":
        return (), {"axis": 0, "block_size": 0}
    if kind == "axis":
        return (shape[axis],), {"axis": axis, "block_size": 0}
    blocked = list(shape)
    blocked[axis] = -(-shape[axis] // 4)
    return tuple(blocked), {"axis": axis, "block_size": 4}


@few
@given(seeds, st.sampled_from(sorted(RANGES)), st.sampled_from(["scalar", "axis", "blocked"]))
def test_quantize(seed, dtype, kind):
    rng = np.random.default_rng(seed)
    qmin, qmax = RANGES[dtype]
    x = rng.normal(0, 4, (2, 10, 33)).astype(np.float32)
    x.flat[:2] = np.inf, -np.inf
    shape, group = grouping(rng, kind, x.shape)
    scale = np.asarray(rng.uniform(0.01, 1, shape), np.float32)
    x[1, 0] = np.round(x[1, 0] * 2) / 2 * scale.flat[0]  # ties
    zero = rng.integers(max(qmin, -100), min(qmax, 200), shape).astype(dtype)
    want = ref.quantize(x, scale, zero, qmin=qmin, qmax=qmax, dtype=dtype, **group)
    got = run(
        [x],
        lambda _, v: waist.quantize(
            v, const(scale), const(zero), bits=8, qmin=qmin, qmax=qmax, dtype=dtype, **group
        ),
    )
    assert_same(got, want)


@few
@given(
    seeds,
    st.sampled_from([*sorted(RANGES), "int32"]),
    st.sampled_from(["scalar", "axis", "blocked"]),
)
def test_dequantize(seed, dtype, kind):
    rng = np.random.default_rng(seed)
    low, high = RANGES.get(dtype, (-(2**28), 2**28))
    q = rng.integers(low, high + 1, (2, 10, 33)).astype(dtype)
    shape, group = grouping(rng, kind, q.shape)
    scale = np.asarray(rng.uniform(0.01, 1, shape), np.float32)
    zero = rng.integers(max(low, -100), min(high, 100) + 1, shape).astype(dtype)
    got = run([q], lambda _, v: waist.dequantize(v, const(scale), const(zero), bits=8, **group))
    assert_same(got, ref.dequantize(q, scale, zero, **group))


def test_quantize_with_run_time_parameters():
    rng = np.random.default_rng(3)
    x = rng.normal(0, 4, (4, 40)).astype(np.float32)
    scale, zero = ref.dynamic_quantize_params(x)
    got = run(
        [x, np.asarray(scale), np.asarray(zero)],
        lambda _, v, s, z: waist.quantize(v, s, z, bits=8, qmin=0, qmax=255, dtype="uint8"),
    )
    assert_same(got, ref.quantize(x, scale, zero, qmin=0, qmax=255, dtype="uint8"))


@pytest.mark.parametrize("low,high", [(-3.0, 5.0), (1.0, 5.0), (-7.0, -1.0), (0.0, 0.0)])
@pytest.mark.parametrize("shape", [(2, 64), (3, 7), (1,)])
def test_dynamic_quantize_params(low, high, shape):
    x = np.random.default_rng(0).uniform(low, high, shape).astype(np.float32)
    scale, zero_point = run([x], lambda _, v: waist.dynamic_quantize_params(v))
    want_scale, want_zero = ref.dynamic_quantize_params(x)
    assert_same(scale, np.asarray(want_scale))
    assert_same(zero_point, np.asarray(want_zero))


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


def onnx_resize(x, target, mode, rounding):
    node = helper.make_node(
        "Resize",
        ["x", "", "", "s"],
        ["y"],
        mode="nearest",
        coordinate_transformation_mode=mode,
        nearest_mode=rounding,
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
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


def test_resize_linear_goes_to_tvm():
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    got = run(
        [x],
        lambda _, v: relax.op.image.resize2d(
            v,
            relax.ShapeExpr([7, 7]),
            method="linear",
            coordinate_transformation_mode="align_corners",
        ),
    )
    np.testing.assert_allclose(got[0, 0, ::2, ::2], x[0, 0], atol=1e-5)
