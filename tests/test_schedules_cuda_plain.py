"""CUDA kernels without tensor cores in an emulator of the GPU, against NumPy."""

import dataclasses
import re

import numpy as np
import pytest
from cuda_tools import aligned, emulated, run_kernel
from kernel_tools import expected, make_data

from tvmquant import reference
from tvmquant.schedules.cuda.plain import DepthwiseKernel, FloatKernel, WeightOnlyKernel
from tvmquant.schedules.workload import Workload


def depthwise(shape, kernel, strides, padding, dilation=(1, 1), **more):
    channels = shape[-1]
    weight = (channels, *kernel, 1)
    op = "depthwise_conv2d"
    return Workload(op, shape, weight, strides, padding, dilation, channels, **more)


DEPTHWISE = [
    depthwise((1, 9, 10, 24), (3, 3), (1, 1), (1, 1, 1, 1)),
    depthwise((2, 8, 7, 12), (5, 5), (2, 2), (2, 2, 2, 2), w_bits=4),
    depthwise((1, 12, 11, 5), (3, 2), (1, 2), (2, 0, 2, 1), (2, 3)),
    depthwise((1, 5, 5, 8), (5, 5), (1, 1), (0, 0, 0, 0), requantize="dequantize"),
    depthwise((1, 6, 6, 8), (3, 3), (1, 1), (1, 1, 1, 1), requantize="fixed_point"),
    depthwise((1, 7, 19, 8), (2, 7), (1, 3), (0, 3, 1, 3), (2, 1)),
    depthwise((1, 4, 9, 4), (1, 4), (1, 1), (0, 2, 0, 1), requantize="none"),
    depthwise((1, 9, 6, 8), (3, 1), (2, 1), (1, 0, 1, 0)),
]


@pytest.mark.parametrize("index", range(len(DEPTHWISE)))
def test_depthwise_layers_are_exact(index, tmp_path):
    workload = DEPTHWISE[index]
    data = make_data(workload, index, extreme=True)
    got = run_kernel(DepthwiseKernel(workload), tmp_path, *data)
    np.testing.assert_array_equal(got, expected(workload, *data))


def run_float(kernel, folder, x, arrays):
    out = aligned(np.full(kernel.workload.out_shape, np.nan, np.float32))
    emulated(kernel.launch, folder)(aligned(x), *map(aligned, arrays), out)
    return out


@pytest.mark.parametrize(
    "workload",
    [
        Workload("conv2d_float", (1, 9, 8, 6), (10, 3, 3, 3), (2, 1), (1, 0, 1, 2), (1, 2), 2),
        dataclasses.replace(DEPTHWISE[0], op="depthwise_conv2d_float"),
        Workload("matmul_float", (70, 33), (130, 33)),
    ],
    ids=lambda w: w.op,
)
def test_float_layers_are_right(workload, tmp_path):
    workload = dataclasses.replace(workload, x_bits=32, w_bits=32, requantize="float32")
    rng = np.random.default_rng(0)
    x = rng.integers(-8, 8, workload.x_shape)
    w = rng.integers(-8, 8, workload.w_shape)
    bias = rng.integers(-8, 8, workload.w_shape[0])
    kernel = FloatKernel(workload)
    arrays = kernel.pack(w.astype(np.float32), bias.astype(np.float32), ())
    got = run_float(kernel, tmp_path, x.astype(np.float32), arrays)
    # Small integers: float sums are exact in any order.
    meant = dataclasses.replace(workload, requantize="none", op=workload.op.removesuffix("_float"))
    qinfo = np.zeros(4, np.int32)
    np.testing.assert_array_equal(got, expected(meant, x, w, bias, (), qinfo))


@pytest.mark.parametrize(
    "rows, depth, bits, group, zero_points",
    [(1, 96, 4, 32, False), (3, 70, 4, 32, True), (11, 64, 2, 0, False), (2, 40, 8, 16, True)],
)
def test_weight_only_layers_stay_within_the_bound(rows, depth, bits, group, zero_points, tmp_path):
    rng = np.random.default_rng(bits)
    workload = Workload(
        "matmul_weight_only",
        (rows, depth),
        (10, depth),
        x_bits=32,
        w_bits=bits,
        requantize="float32",
        group_size=group,
        zero_points=zero_points,
    )
    size = group or depth
    half = 2 ** (bits - 1)
    x = rng.normal(size=(rows, depth)).astype(np.float32)
    w = rng.integers(-half, half, (10, depth)).astype(np.int8)
    scale = rng.uniform(0.1, 2, (10, -(-depth // size))).astype(np.float32)
    zero = rng.integers(-half, half, scale.shape).astype(np.int8) if zero_points else None
    bias = rng.normal(size=10).astype(np.float32)
    kernel = WeightOnlyKernel(workload)
    params = (scale, zero) if zero_points else (scale,)
    got = run_float(kernel, tmp_path, x, kernel.pack(w, bias, params))
    given = (x, w, scale, bias, zero)
    error = np.abs(got - reference.weight_only_matmul(*given, group_size=size))
    assert (error <= reference.weight_only_bound(*given, group_size=size)).all()


def test_grids_are_no_larger_than_they_may_be():
    for rows in (1, 9, 65535 * 8, 65535 * 8 + 1):
        more = {"x_bits": 32, "w_bits": 4, "group_size": 32, "requantize": "float32"}
        launch = WeightOnlyKernel(
            Workload("matmul_weight_only", (rows, 64), (24, 64), **more)
        ).launch
        _, y, z = launch.grid
        own = int(re.search(r"ROWS = (\d+)", launch.source)[1])
        assert y <= 65535 and z == 1 and (y - 1) * own < rows <= y * own
