"""The default schedules change speed, never results, and leave nothing important naive."""

import dataclasses

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from run_relax import build_module, const, execute, lower, run, schedule
from tvm import relax, s_tir, tirx

from tvmquant.ops import make_call, waist
from tvmquant.passes.schedule import RULES, SCHEDULED, UNSCHEDULED, ScheduleFunctions
from tvmquant.schedules.default import contraction, parallel
from tvmquant.schedules.default.analysis import largest_divisor
from tvmquant.targets import get_device

R = relax.op
rng = np.random.default_rng(0)


def u8(*shape):
    return rng.integers(0, 256, shape).astype(np.uint8)


def f32(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def rules_of(mod):
    return [
        rule
        for func in mod.functions.values()
        if isinstance(func, tirx.PrimFunc)
        for rule in func.attrs.get(RULES, [])
    ]


@pytest.fixture(params=["serial", "parallel"])
def device(request, monkeypatch):
    """The host, with threads never or always worth their start."""
    host = get_device()
    if request.param == "serial":
        return dataclasses.replace(host, num_cores=1)
    monkeypatch.setattr(parallel, "_WORTH", 0.0)
    return dataclasses.replace(host, num_cores=4)


MOVEMENT = {
    "reshape": (lambda e, x: R.reshape(x, [6, 8, 16]), lambda x: x.reshape(6, 8, 16)),
    "nhwc_to_nchw": (lambda e, x: R.permute_dims(x, [0, 3, 1, 2]), lambda x: x.transpose(0, 3, 1, 2)),
    "reverse_axes": (lambda e, x: R.permute_dims(x), lambda x: x.transpose()),
    "slice": (lambda e, x: R.strided_slice(x, [1, 3], [1, 3], [6, 15], [2, 3]), lambda x: x[:, 1:6:2, :, 3:15:3]),
    "concat": (lambda e, x: R.concat([x, x, x], 3), lambda x: np.concatenate([x, x, x], 3)),
    "concat_rows": (lambda e, x: R.concat([x, x], 1), lambda x: np.concatenate([x, x], 1)),
    "squeeze": (lambda e, x: R.squeeze(x, [0]), lambda x: x[0]),
    "expand_dims": (lambda e, x: R.expand_dims(x, [2]), lambda x: np.expand_dims(x, 2)),
    "pad": (
        lambda e, x: R.nn.pad(x, [0, 0, 1, 2, 3, 0, 0, 5], pad_value=9),
        lambda x: np.pad(x, ((0, 0), (1, 2), (3, 0), (0, 5)), constant_values=9),
    ),
    "take": (lambda e, x: R.take(x, const(np.array([3, 0, 3])), axis=1), lambda x: x[:, [3, 0, 3]]),
    "broadcast_to": (lambda e, x: R.broadcast_to(x, [4, 6, 8, 16]), lambda x: np.tile(x, (4, 1, 1, 1))),
    "tile": (lambda e, x: R.tile(x, [1, 2, 1, 3]), lambda x: np.tile(x, (1, 2, 1, 3))),
    "flip": (lambda e, x: R.flip(x, 2), lambda x: x[:, :, ::-1]),
    "maximum": (lambda e, x: R.maximum(x, const(np.uint8(90))), lambda x: np.maximum(x, 90)),
    "minimum": (lambda e, x: R.minimum(x, const(np.uint8(90))), lambda x: np.minimum(x, 90)),
    "depth_to_space": (
        lambda e, x: R.reshape(e(R.permute_dims(e(R.reshape(x, [1, 6, 8, 2, 2, 4])), [0, 1, 3, 2, 4, 5])), [1, 12, 16, 4]),
        lambda x: x.reshape(1, 6, 8, 2, 2, 4).transpose(0, 1, 3, 2, 4, 5).reshape(1, 12, 16, 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVEMENT)
def test_data_movement_on_bytes(name, device):
    body, meaning = MOVEMENT[name]
    x = u8(1, 6, 8, 16)
    got = run([x], body, device)
    want = meaning(x)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, want)


def test_split_on_bytes(device):
    x = u8(1, 6, 8, 16)
    got = run([x], lambda e, v: R.split(v, [5, 9], 3), device)
    for part, want in zip(got, np.split(x, [5, 9], 3)):
        np.testing.assert_array_equal(part, want)


@pytest.mark.parametrize(
    "mode", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
)
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_resize_nearest_equals_onnxruntime(mode, rounding):
    import onnxruntime
    from onnx import TensorProto, helper

    for size, target in [((7, 5), (14, 15)), ((13, 9), (29, 4)), ((3, 3), (1, 2))]:
        x = u8(1, 3, *size)
        node = helper.make_node(
            "Resize", ["x", "", "", "s"], ["y"], mode="nearest",
            coordinate_transformation_mode=mode, nearest_mode=rounding,
        )  # fmt: skip
        sizes = helper.make_tensor("s", TensorProto.INT64, [4], [1, 3, *target])
        graph = helper.make_graph(
            [node],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape)],
            [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
            [sizes],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        want = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
        for layout in ("NCHW", "NHWC"):
            order = (0, 1, 2, 3) if layout == "NCHW" else (0, 2, 3, 1)
            got = run(
                [x.transpose(order)],
                lambda e, v, layout=layout, target=target: R.image.resize2d(
                    v,
                    relax.ShapeExpr(target),
                    layout=layout,
                    method="nearest_neighbor",
                    coordinate_transformation_mode=mode,
                    rounding_method=rounding,
                ),
            )
            np.testing.assert_array_equal(got, want.transpose(order))


def quantized(e, x):
    return make_quantize(e(R.permute_dims(x, [0, 2, 3, 1])))


def make_quantize(x):
    return waist.quantize(
        x, const(np.float32(0.02)), const(np.uint8(128)), bits=8, qmin=0, qmax=255, dtype="uint8"
    )


def dequantized(e, x):
    node = waist.dequantize(x, const(np.float32(0.02)), const(np.uint8(128)), bits=8)
    return R.nn.softmax(e(node), -1)


def conv(**attrs):
    return lambda e, x, w: R.nn.conv2d(x, w, **attrs)


NHWC = {"data_layout": "NHWC", "kernel_layout": "OHWI"}
MAX3 = {"pool_size": [3, 3], "strides": [2, 2], "padding": [1] * 4, "dilation": [1, 1], "ceil_mode": False}  # fmt: skip

TABLE = u8(256)

# name: inputs, body, rules that must hit
CASES = {
    "quantize_image": ([f32(1, 3, 40, 40)], quantized, {"elementwise"}),
    "transpose_bytes": ([u8(1, 24, 24, 64)], lambda e, x: R.permute_dims(x, [0, 3, 1, 2]), {"transpose"}),
    "concat_channels": ([u8(1, 5, 5, 24), u8(1, 5, 5, 13)], lambda e, a, b: R.concat([a, b], 3), {"partition"}),
    "pad_channels": ([u8(1, 5, 5, 24)], lambda e, x: R.nn.pad(x, [0, 0, 1, 1, 1, 1, 2, 3]), {"partition"}),
    "bias_relu": ([f32(1, 24, 9, 9), f32(24)], lambda e, x, b: R.nn.relu(e(R.add(x, e(R.reshape(b, [1, 24, 1, 1]))))), {"elementwise"}),
    "lookup": ([u8(3, 7, 70)], lambda e, x: make_call("tvmquant.lut", [x, const(TABLE)], axis=0), {"lut", "elementwise"}),
    "max_pool_bytes": ([u8(1, 21, 21, 48)], lambda e, x: make_call("tvmquant.max_pool2d", [x], **MAX3), {"reduction-outer"}),
    "softmax_rows": ([f32(6, 96)], lambda e, x: R.nn.softmax(x, -1), {"reduction-outer"}),
    "softmax_prime": ([f32(6, 97)], lambda e, x: R.nn.softmax(x, -1), {"reduction-outer"}),
    "softmax_bytes": ([u8(6, 96)], dequantized, {"reduction-outer"}),
    "softmax_channels": ([f32(1, 21, 8, 24)], lambda e, x: R.nn.softmax(x, 1), {"reduction-outer"}),
    "log_softmax": ([f32(6, 96)], lambda e, x: R.nn.log_softmax(x, -1), {"reduction-lanes"}),
    "layer_norm": ([f32(9, 96), f32(96), f32(96)], lambda e, x, g, b: R.nn.layer_norm(x, g, b, axes=[-1]), {"reduction-lanes"}),
    "group_norm": ([f32(1, 24, 6, 8), f32(24), f32(24)], lambda e, x, g, b: R.nn.group_norm(x, g, b, 4, 1, [2, 3]), {"reduction-lanes"}),
    "mean_pixels_nchw": ([f32(1, 48, 7, 7)], lambda e, x: R.mean(x, [2, 3], True), {"reduction-lanes"}),
    "mean_pixels_nhwc": ([f32(1, 7, 7, 48)], lambda e, x: R.mean(x, [1, 2], True), {"reduction-outer"}),
    "sum_everything": ([f32(5, 64)], lambda e, x: R.sum(x), {"reduction-lanes"}),
    "mean_everything": ([f32(5, 64)], lambda e, x: R.mean(x), {"reduction-lanes"}),
    "argmax": ([f32(1, 12, 9, 5)], lambda e, x: R.argmax(x, 1), {"reduction"}),
    "matmul": ([f32(48, 64), f32(64, 80)], lambda e, a, b: R.matmul(a, b), {"contraction"}),
    "matmul_odd": ([f32(37, 29), f32(29, 51)], lambda e, a, b: R.matmul(a, b), {"contraction"}),
    "matmul_prime": ([f32(16, 32), f32(32, 131)], lambda e, a, b: R.matmul(a, b), {"contraction"}),
    "matmul_primes": ([f32(67, 32), f32(32, 131)], lambda e, a, b: R.matmul(a, b), {"contraction-streamed"}),
    "matmul_transposed": ([f32(32, 64), f32(48, 64)], lambda e, a, b: R.matmul(a, e(R.permute_dims(b))), {"contraction"}),
    "matmul_batched": ([f32(2, 3, 32, 24), f32(2, 1, 24, 32)], lambda e, a, b: R.matmul(a, b), {"contraction"}),
    "matmul_bias_relu": ([f32(32, 64), f32(64, 48), f32(48)], lambda e, a, b, c: R.nn.relu(e(R.add(e(R.matmul(a, b)), c))), {"contraction"}),
    "gemv": ([f32(1, 96), f32(96, 160)], lambda e, a, b: R.matmul(a, b), {"reduction-outer"}),
    "conv_nhwc": ([f32(1, 9, 9, 16), f32(32, 3, 3, 16)], conv(padding=1, **NHWC), {"contraction"}),
    "conv_nhwc_odd": ([f32(1, 9, 7, 5), f32(18, 3, 3, 5)], conv(padding=1, strides=2, **NHWC), {"contraction"}),
    "conv_nchw": ([f32(1, 16, 9, 9), f32(32, 16, 3, 3)], conv(padding=1), {"contraction"}),
    "conv_nchw_stride": ([f32(1, 3, 20, 20), f32(16, 3, 3, 3)], conv(padding=1, strides=2), {"contraction"}),
    "conv_dilated": ([f32(1, 8, 12, 12), f32(16, 8, 3, 3)], conv(padding=2, dilation=2), {"contraction"}),
    "conv_grouped": ([f32(1, 16, 10, 10), f32(32, 4, 3, 3)], conv(padding=1, groups=4), {"contraction"}),
    "depthwise_nhwc": ([f32(1, 9, 9, 32), f32(32, 3, 3, 1)], conv(padding=1, groups=32, **NHWC), {"reduction-outer"}),
    "depthwise_nchw": ([f32(1, 32, 9, 9), f32(32, 1, 3, 3)], conv(padding=1, groups=32), set()),
    "conv1d": ([f32(1, 16, 50), f32(32, 16, 3)], lambda e, x, w: R.nn.conv1d(x, w, padding=1), {"contraction"}),
    "conv_transpose": ([f32(1, 16, 7, 7), f32(16, 24, 4, 4)], lambda e, x, w: R.nn.conv2d_transpose(x, w, strides=2, padding=1), {"contraction"}),
    "max_pool_float": ([f32(1, 8, 20, 20)], lambda e, x: R.nn.max_pool2d(x, pool_size=3, strides=2, padding=1), set()),
    "avg_pool_float": ([f32(1, 8, 20, 20)], lambda e, x: R.nn.avg_pool2d(x, pool_size=3, strides=2, padding=1), set()),
    "gather_rows": ([f32(50, 64), np.array([[3, 49, 0]])], lambda e, x, i: R.take(x, i, axis=0), {"elementwise"}),
    "gelu": ([f32(4, 96)], lambda e, x: R.nn.gelu(x), {"elementwise"}),
    "channel_shuffle": ([u8(1, 5, 5, 36)], lambda e, x: R.reshape(e(R.permute_dims(e(R.reshape(x, [1, 5, 5, 2, 18])), [0, 1, 2, 4, 3])), [1, 5, 5, 36]), {"elementwise"}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_scheduled_equals_naive(name, device):
    inputs, body, expected = CASES[name]
    mod = build_module(inputs, body)
    scheduled = schedule(mod, device)
    assert list(scheduled.attrs[UNSCHEDULED]) == []
    assert expected == set() or expected & set(rules_of(scheduled))
    got, want = execute(scheduled, inputs, device), execute(lower(mod), inputs, device)
    if want.dtype == np.float32:
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    else:
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("mcpu", ["x86-64", "x86-64-v3"])
@pytest.mark.parametrize("name", ["lookup", "max_pool_bytes", "softmax_rows", "matmul_odd", "conv_nchw"])  # fmt: skip
def test_lesser_processors(name, mcpu):
    target = {**get_device().target.export(), "mcpu": mcpu}
    lesser = get_device({k: target[k] for k in ("kind", "mcpu", "mtriple")})
    inputs, body, _ = CASES[name]
    mod = build_module(inputs, body)
    got, want = run(inputs, body, lesser), execute(lower(mod), inputs)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(*[st.integers(1, 70)] * 3, st.booleans())
def test_matmul_of_any_shape(m, k, n, transposed):
    a, b = f32(m, k), f32(n, k) if transposed else f32(k, n)

    def body(e, x, y):
        return R.matmul(x, e(R.permute_dims(y)) if transposed else y)

    want = a @ (b.T if transposed else b)
    np.testing.assert_allclose(run([a, b], body), want, rtol=1e-4, atol=1e-4)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 2]), st.sampled_from([1, 3, 5]),
    st.integers(0, 2), st.booleans(),
)  # fmt: skip
def test_conv2d_of_any_shape(c, o, stride, kernel, pad, channels_last):
    x, w = f32(1, 11, 13, c), f32(o, kernel, kernel, c)
    attrs = {"strides": stride, "padding": pad}
    if channels_last:
        attrs |= NHWC
    else:
        x, w = x.transpose(0, 3, 1, 2), w.transpose(0, 3, 1, 2)
    mod = build_module([x, w], conv(**attrs))
    got, want = execute(schedule(mod), [x, w]), execute(lower(mod), [x, w])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_rounding_and_division_are_instructions():
    """No libm call an element, and the division of ONNX stays a division."""
    x = f32(1, 3, 40, 40)
    mod = schedule(build_module([x], quantized))
    func = next(f for f in mod.functions.values() if isinstance(f, tirx.PrimFunc))
    single = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    assembly = tvm.compile(single, target=get_device().target).mod.inspect_source("asm")
    assert "nearbyintf" not in assembly and "rintf" not in assembly
    assert "div" in assembly


def test_functions_with_a_schedule_stay():
    mod = schedule(build_module([u8(4, 64)], lambda e, x: R.maximum(x, const(np.uint8(3)))))
    again = ScheduleFunctions(get_device())(mod)
    tvm.ir.assert_structural_equal(again, mod)
    marks = [f.attrs[SCHEDULED] for f in again.functions.values() if isinstance(f, tirx.PrimFunc)]
    assert marks and all(marks)


def test_what_no_rule_fits_is_listed_and_still_runs():
    x, updates = f32(8, 64), f32(1, 2)
    mod = build_module(
        [x],
        lambda e, v: R.scatter_elements(v, const(np.array([[1, 5]])), const(updates), 1),
    )
    scheduled = schedule(mod)
    assert [str(name) for name in scheduled.attrs[UNSCHEDULED]] == ["scatter_elements"]
    want = x.copy()
    want[0, [1, 5]] = updates
    np.testing.assert_array_equal(execute(scheduled, [x]), want)


def test_a_refused_primitive_leaves_the_function_unchanged(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise s_tir.ScheduleError("refused")

    inputs, body, _ = CASES["matmul"]
    monkeypatch.setattr(contraction, "parallelize", refuse)
    mod = schedule(build_module(inputs, body))
    assert [str(name) for name in mod.attrs[UNSCHEDULED]] == ["matmul"]
    got = execute(mod, inputs)
    np.testing.assert_allclose(got, inputs[0] @ inputs[1], rtol=1e-4, atol=1e-4)


def test_large_results_run_in_parallel():
    big = dataclasses.replace(get_device(), num_cores=2)
    for shape, threads in (((1, 8, 8, 64), False), ((8, 512, 512, 3), True)):
        x = np.zeros(shape, np.uint8)
        mod = schedule(build_module([x], lambda e, v: R.maximum(v, const(np.uint8(3)))), big)
        assert ("T.parallel" in mod.script()) == threads


@pytest.mark.parametrize(
    "value,limit,want", [(97, 64, 1), (96, 64, 48), (7, 64, 7), (1000, 32, 25)]
)
def test_largest_divisor(value, limit, want):
    assert largest_divisor(value, limit) == want
