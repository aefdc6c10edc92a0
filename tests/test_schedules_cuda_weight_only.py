"""Weight-only products on tensor cores in an emulator of the GPU, against NumPy."""

import dataclasses

import numpy as np
import pytest
from cuda_tools import aligned, run_arrays
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from weight_only_tools import WeightOnlyData, weight_only_workload

from tvmquant.schedules.cuda.weight_only import WeightOnlyTensorKernel, pack_codes
from tvmquant.schedules.cuda.weight_only_estimate import choose
from tvmquant.schedules.cuda.weight_only_plan import Layout
from tvmquant.targets.cuda import arch_of

SM_90 = arch_of("sm_90")


def kernel_of(workload, arch=SM_90, **sizes):
    kernel = WeightOnlyTensorKernel(workload, choose(workload, arch))
    return kernel.with_config({**kernel.plan.config, **sizes}) if sizes else kernel


def run(kernel, folder, data, reverse=False):
    """Output in the emulator."""
    arrays = [aligned(a) for a in (data.x, *kernel.pack(data.w, data.bias, data.params))]
    return run_arrays(kernel, folder, *arrays, reverse=reverse)


def check(kernel, folder, data, reverse=False):
    expected, bound = data.expected()
    error = np.abs(run(kernel, folder, data, reverse).astype(np.float64) - expected)
    assert (error <= bound).all(), f"{kernel.plan.config}: {(error / bound).max()} of the bound"


@pytest.mark.parametrize(
    "rows, depth, outputs, bits, group, zero_points",
    [
        (1, 512, 40, 4, 32, False),
        (1, 512, 40, 4, 128, True),
        (2, 320, 33, 4, 64, False),
        (3, 300, 20, 4, 100, True),  # groups that are not whole units, an odd number of rows
        (8, 261, 16, 4, 0, False),  # no vectors of activations
        (33, 192, 24, 4, 64, False),  # several blocks of rows
        (13, 330, 40, 4, 64, True),  # planes of digits, groups that are not whole
        (24, 512, 20, 8, 0, False),
        (7, 256, 33, 2, 32, True),
        (1, 1000, 31, 8, 0, True),
        (5, 200, 17, 8, 32, False),
        (1, 640, 18, 2, 128, False),
        (4, 390, 50, 2, 32, True),  # the last group is shorter
        (1, 96, 16, 2, 16, False),
    ],
)
def test_products_stay_within_the_bound(rows, depth, outputs, bits, group, zero_points, tmp_path):
    reverse = outputs % 2 == 1  # the warps' order, and when copies come
    workload = weight_only_workload(rows, depth, outputs, bits, group, zero_points)
    check(kernel_of(workload), tmp_path, WeightOnlyData.of(workload, depth), reverse)


@settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # smaller examples are compiled anew
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_shape_at_any_size_stays_within_the_bound(data, tmp_path):
    draw = data.draw
    depth = draw(st.integers(16, 700))
    group = draw(st.sampled_from([0, 16, 32, 48, 64, 100, 128, 256]))
    workload = weight_only_workload(
        draw(st.integers(1, 40)),
        depth,
        draw(st.integers(1, 100)),
        draw(st.sampled_from([8, 4, 2])),
        min(group, depth),
        draw(st.booleans()),
    )
    # Few multiprocessors: blocks go through several places. Little memory: digits in chunks.
    arch = dataclasses.replace(
        SM_90,
        multiprocessors=draw(st.sampled_from([1, 2, 132])),
        shared_bytes=draw(st.sampled_from([24, 48, 227])) << 10,
    )
    kernel = kernel_of(workload, arch)
    kernel = kernel.with_config(draw(st.sampled_from(kernel.configs())))
    seed, spread = draw(st.integers(0, 9)), draw(st.sampled_from([0.0, 1.0, 3.0]))
    check(kernel, tmp_path, WeightOnlyData.of(workload, seed, spread), draw(st.booleans()))


@pytest.mark.parametrize(
    "arch, sizes",
    [
        ({}, {"tiles": 4, "warps_m": 1, "warps_k": 2, "ahead": 2}),
        ({}, {"tiles": 1, "warps_m": 4, "warps_k": 4, "ahead": 3}),
        ({"multiprocessors": 1}, {"tiles": 1, "warps_m": 1, "warps_k": 16, "ahead": 1}),
        (
            {"multiprocessors": 1, "shared_bytes": 32 << 10},
            {"tiles": 1, "warps_m": 1, "warps_k": 4, "ahead": 1, "rows": 6},
        ),
        ({}, {"launches": 2}),
        ({}, {"splits": 3, "reach": 2}),
        ({}, {"splits": 2, "rows": 8, "launches": 2, "reach": 3}),
        (
            {"multiprocessors": 2, "shared_bytes": 32 << 10},
            {"tiles": 2, "warps_m": 1, "warps_k": 4, "ahead": 1, "rows": 6, "launches": 2},
        ),
        (
            {"multiprocessors": 2, "shared_bytes": 16 << 10},
            {"warps_m": 2, "warps_k": 2, "ahead": 1, "rows": 8, "launches": 2, "splits": 2},
        ),
    ],
    ids=["tiles", "warps", "places", "chunks", "launches", "parts", "planes", "all", "all planes"],
)
def test_all_sizes_are_right(arch, sizes, tmp_path):
    workload = weight_only_workload(6, 1100, 90, 4, 32, True)
    kernel = kernel_of(workload, dataclasses.replace(SM_90, **arch), **sizes)
    assert (kernel.plan.items > 1) == ("multiprocessors" in arch)
    assert (kernel.plan.chunks > 1) == ("shared_bytes" in arch)
    assert len(kernel.launches) == kernel.plan.launches + (kernel.plan.splits > 1)
    check(kernel, tmp_path, WeightOnlyData.of(workload, 3))


@pytest.mark.parametrize("rows, bits", [(3, 8), (3, 4), (3, 2), (8, 8), (8, 4)])
def test_whole_numbers_are_exact(rows, bits, tmp_path):
    workload = weight_only_workload(rows, 384, 20, bits, 64, True)
    data = WeightOnlyData.of(workload, bits)
    rng = np.random.default_rng(bits)
    data.x[...] = rng.integers(-100, 100, data.x.shape)
    data.scale[...] = 2.0 ** rng.integers(-3, 3, data.scale.shape)
    data.bias[...] = rng.integers(-100, 100, data.bias.shape)
    np.testing.assert_array_equal(run(kernel_of(workload), tmp_path, data), data.expected()[0])


def test_one_activation_at_a_time_is_exact_to_its_last_bit(tmp_path):
    workload = weight_only_workload(4, 128, 16, 4, 32)
    data = WeightOnlyData.of(workload)
    x = data.x.copy()
    data.x[...] = 0
    at = [3, 40, 77, 127]
    data.x[range(4), at] = x[range(4), at]
    data.w[...] = 1
    data.scale[...] = 1
    data.bias[...] = 0
    got = run(kernel_of(workload), tmp_path, data)
    np.testing.assert_array_equal(got, np.broadcast_to(x[range(4), at][:, None], got.shape))


@pytest.mark.parametrize("rows", [2, 8])
@pytest.mark.parametrize("magnitude", [1e-44, 1e-38, 1e-30, 1e30, 1e36])
def test_extreme_magnitudes(magnitude, rows, tmp_path):
    workload = weight_only_workload(rows, 256, 16, 4, 64)
    data = WeightOnlyData.of(workload, 5)
    data.x *= np.float32(magnitude / np.abs(data.x).max())
    data.scale /= 100
    data.bias *= np.float32(magnitude)
    check(kernel_of(workload), tmp_path, data)


def test_the_longest_three_bytes_are_not_passed(tmp_path):
    """Of 0x7F7F7F steps and one more, next to powers of two: larger ones have longer steps."""
    workload = weight_only_workload(8, 256, 16, 4, 32)
    data = WeightOnlyData.of(workload, 4)
    near = np.array([0x7F7F7F, 0x7F7F80, 0x7FFFFF, 0x800000, 0x7F7F7E, 0x400000], np.float32)
    data.x[...] = np.resize(near, data.x.shape) * np.where(data.x < 0, -1, 1)
    check(kernel_of(workload, rows=8), tmp_path, data)


@pytest.mark.parametrize("rows, value", [(3, np.inf), (3, -np.inf), (3, np.nan), (8, np.inf)])
def test_a_row_that_is_not_finite_becomes_nan_alone(rows, value, tmp_path):
    workload = weight_only_workload(rows, 256, 16, 4, 64)
    data = WeightOnlyData.of(workload, 6)
    expected, bound = data.expected()
    data.x[1, 100] = value
    got = run(kernel_of(workload), tmp_path, data)
    assert np.isnan(got[1]).all()
    assert (np.abs(got - expected) <= bound)[[0, 2]].all()


def test_packed_weights_do_not_depend_on_sizes():
    workload = weight_only_workload(4, 1024, 100, 4, 128)
    data = WeightOnlyData.of(workload)
    kernel = kernel_of(workload)
    first = kernel.pack(data.w, data.bias, data.params)
    for config in kernel.configs()[1::9]:
        other = kernel.with_config(config)
        assert other.arguments == kernel.arguments
        for a, b in zip(first, other.pack(data.w, data.bias, data.params)):
            np.testing.assert_array_equal(a, b)
    for array, (_, shape, dtype) in zip(first, kernel.arguments[1:]):
        assert array.shape == shape and array.dtype == dtype


def test_a_code_is_where_the_fragments_want_it():
    layout = Layout.of(weight_only_workload(1, 128, 16, 4, 128))
    weight = np.zeros((16, 128), np.int8)
    # Channel 11 is row 3 of the lower half; input 46 is byte 2 of the second half of lane 1's
    # eight inputs of step 1.
    weight[11, 46] = -3
    packed = pack_codes(weight, layout).view(np.uint32).reshape(-1, 32, 4)
    vector, lane, word = map(int, np.argwhere(packed)[0])
    assert (vector, lane, word) == (0, 3 * 4 + 1, 3)
    assert packed[vector, lane, word] == (-3 & 15) << (2 * 8 + 4)
    assert np.count_nonzero(packed) == 1
