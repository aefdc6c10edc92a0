"""Float kernels against NumPy in float64, on every vector width that this processor has."""

from dataclasses import replace

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tvm import relax

from tvmquant.schedules.floating.tiling import Machine, block_lanes, choose_tile
from tvmquant.schedules.selection import KernelTable
from tvmquant.schedules.workload import Workload
from tvmquant.targets.device import Device, get_device

HOST = replace(get_device("host"), num_cores=4)
DEVICES = {
    "host": HOST,
    "no_avx512": HOST.without("avx512f", "avx512bw", "avx512vl", "avx512vnni", "avx512vbmi"),
    "generic": get_device({"kind": "llvm", "num-cores": 4}),
}


def expected(workload: Workload, x: np.ndarray, w: np.ndarray, bias: np.ndarray) -> np.ndarray:
    x, w = x.astype(np.float64), w.astype(np.float64)
    if workload.op == "matmul_float":
        return x @ w.T + bias
    top, left, bottom, right = workload.padding
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    n, oh, ow, o = workload.out_shape
    (sh, sw), (dh, dw), groups = workload.strides, workload.dilation, workload.groups
    out = np.zeros((n, oh, ow, groups, o // groups))
    for i in range(w.shape[1]):
        for j in range(w.shape[2]):
            patch = x[:, i * dh :: sh, j * dw :: sw][:, :oh, :ow]
            taps = w[:, i, j].reshape(groups, o // groups, -1)
            out += np.einsum("nhwgc,goc->nhwgo", patch.reshape(n, oh, ow, groups, -1), taps)
    return out.reshape(n, oh, ow, o) + bias


def make_data(workload: Workload, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = (workload.x_shape, workload.w_shape, workload.w_shape[:1])
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def check(workload: Workload, device: Device, seed: int) -> None:
    x, w, bias = make_data(workload, seed)
    kernel = KernelTable(device)[workload]
    module = tvm.compile(kernel.prim_func(), target=device.target)
    arrays = [x, *kernel.pack(w, bias, ()), np.zeros(workload.out_shape, np.float32)]
    arguments = [tvm.runtime.tensor(a) for a in arrays]
    module[kernel.name](*arguments)
    want = expected(workload, x, w, bias)
    np.testing.assert_allclose(arguments[-1].numpy(), want, rtol=1e-4, atol=1e-4)


def float_workload(op: str, x_shape: tuple, w_shape: tuple, *geometry: object) -> Workload:
    return Workload(op, x_shape, w_shape, *geometry, x_bits=32, w_bits=32, requantize="float32")


# Large enough for threads.
LARGE_DEPTHWISE = float_workload(
    "depthwise_conv2d_float", (1, 44, 44, 64), (64, 3, 3, 1), (1, 1), (1,) * 4, (1, 1), 64
)
LARGE_DENSE = float_workload(
    "conv2d_float", (2, 23, 23, 20), (50, 3, 3, 20), (1, 1), (1,) * 4, (1, 1), 1
)


@st.composite
def convolutions(draw: st.DrawFn) -> Workload:
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (5, 5), (1, 4), (7, 7), (9, 1)]))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 2)]))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
    size = [draw(st.integers(max(1, span - 1), span + 8)) for span in spans]
    padding = draw(st.sampled_from([(0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 2, 3)]))
    if any(s + p + q < n for s, p, q, n in zip(size, padding, padding[2:], spans)):
        padding = (1, 1, 1, 1)
    strides = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    images = draw(st.integers(1, 2))
    kind = draw(st.sampled_from(["dense", "grouped", "depthwise", "multiplier"]))
    if kind in ("depthwise", "multiplier"):
        channels = draw(st.sampled_from([1, 3, 8, 20, 33, 64]))
        w_shape = (channels * (1 + (kind == "multiplier")), *kernel, 1)
        op, groups = "depthwise_conv2d_float", channels
    else:
        groups = 1 if kind == "dense" else draw(st.sampled_from([2, 3]))
        inputs, outputs = (draw(st.sampled_from([1, 3, 8, 19, 48])) for _ in range(2))
        channels, w_shape, op = groups * inputs, (groups * outputs, *kernel, inputs), "conv2d_float"
    x_shape = (images, *size, channels)
    return float_workload(op, x_shape, w_shape, strides, padding, dilation, groups)


@pytest.mark.parametrize("name", DEVICES)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(workload=convolutions(), seed=st.integers(0, 99))
@example(workload=LARGE_DEPTHWISE, seed=0)
@example(workload=LARGE_DENSE, seed=0)
def test_convolution(name: str, workload: Workload, seed: int) -> None:
    check(workload, DEVICES[name], seed)


@pytest.mark.parametrize("name", DEVICES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    m=st.sampled_from([1, 2, 7, 16, 33]),
    k=st.sampled_from([1, 5, 64, 130]),
    o=st.sampled_from([1, 3, 10, 16, 50, 200]),
    seed=st.integers(0, 99),
)
def test_matmul(name: str, m: int, k: int, o: int, seed: int) -> None:
    check(float_workload("matmul_float", (m, k), (o, k)), DEVICES[name], seed)


def test_called_from_relax() -> None:
    shapes = (1, 6, 6, 8), (24, 3, 3, 8)
    workload = float_workload("conv2d_float", *shapes, (1, 1), (1, 1, 1, 1), (1, 1), 1)
    x, w, bias = make_data(workload, 5)
    kernel = KernelTable(HOST)[workload]
    builder = relax.BlockBuilder()
    parameter = relax.Var("x", relax.TensorType(workload.x_shape, "float32"))
    with builder.function("main", [parameter]):
        with builder.dataflow():
            function = builder.add_func(kernel.prim_func(), kernel.name)
            constants = [relax.const(a) for a in kernel.pack(w, bias, ())]
            result = relax.TensorType(workload.out_shape, "float32")
            call = relax.call_tir(function, [parameter, *constants], out_ty=result)
            y = builder.emit_output(builder.emit(call))
        builder.emit_func_output(y)
    built = tvm.compile(builder.finalize(), target=HOST.target)
    got = relax.VirtualMachine(built, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()
    np.testing.assert_allclose(got, expected(workload, x, w, bias), rtol=1e-4, atol=1e-4)


def test_tiles_fit_the_registers() -> None:
    for machine in (Machine((16, 8, 4), 32, True), Machine((8, 4), 16, True)):
        for channels in (1, 16, 24, 96, 1000):
            for out in ((1, 1), (7, 7), (1, 3136), (112, 112)):
                tile = choose_tile(out, channels, machine)
                assert tile.rows <= out[0] and tile.columns <= out[1]
                sums = tile.rows * tile.columns * tile.vectors * tile.chains
                assert sums + tile.vectors < machine.registers


def test_blocks_cover_all_channels() -> None:
    for channels, width in ((1, 4), (16, 16), (50, 16), (1000, 96)):
        assert set(block_lanes(channels, width).ravel()) == set(range(channels))
