"""Weight-only kernels against the NumPy reference, on every instruction set here."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from weight_only_tools import DEVICES, HOST, WeightOnlyData, run_weight_only, weight_only_workload

from tvmquant.schedules.registry import named_rules
from tvmquant.schedules.selection import KernelTable
from tvmquant.schedules.space import ConfigError
from tvmquant.schedules.weight_only import WeightOnlyKernel, digits
from tvmquant.schedules.weight_only.plan import Sizes

RULES = sorted(named_rules("matmul_weight_only"))


def kernel_of(rule, workload):
    kernel = named_rules("matmul_weight_only")[rule](workload, HOST)
    if kernel is None:
        pytest.skip("not on this processor")
    return kernel


def check(workload, device, seed=0, spread=1.0, kernel=None):
    data = WeightOnlyData.of(workload, seed, spread)
    made = run_weight_only(kernel or KernelTable(device)[workload], device, data)
    want, bound = data.expected()
    assert np.isfinite(made).all()
    worst = np.max(np.abs(made.astype(np.float64) - want) / bound)
    assert worst <= 1, f"{worst} of the bound"


SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 150), st.integers(1, 100))


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
@settings(max_examples=10, deadline=None)
@given(
    shape=SHAPES,
    bits=st.sampled_from([8, 4, 2]),
    group_size=st.sampled_from([0, 8, 16, 24, 32, 64, 128]),
    zero_points=st.booleans(),
    seed=st.integers(0, 99),
)
@example((1, 128, 64), 4, 32, False, 0)
@example((2, 100, 33), 4, 32, True, 1)
@example((5, 77, 130), 2, 0, True, 2)
@example((33, 64, 65), 4, 16, True, 3)
def test_any_shape_equals_the_reference(device, shape, bits, group_size, zero_points, seed):
    check(weight_only_workload(*shape, bits, group_size, zero_points), device, seed)


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("rows", [1, 32])
def test_threads_share_the_output_channels(bits, rows):
    workload = weight_only_workload(rows, 1024, 1100, bits, 32)
    check(workload, HOST)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_every_rule_serves_activations_of_very_different_size(rule, bits):
    workload = weight_only_workload(2, 256, 48, bits, 32, True)
    check(workload, HOST, spread=4.0, kernel=kernel_of(rule, workload))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 1e-30, 1e30])
def test_every_rule_serves_tiny_and_huge_activations(rule, size):
    workload = weight_only_workload(2, 64, 20, 4, 32, True)
    data = WeightOnlyData.of(workload)
    data.x = (data.x * np.float32(size)).astype(np.float32)
    # Without a bias nothing hides a small result.
    data.bias[:] = 0
    made = run_weight_only(kernel_of(rule, workload), HOST, data)
    want, bound = data.expected()
    assert (np.abs(made.astype(np.float64) - want) <= bound).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_shows_in_its_row_only(rule, value):
    workload = weight_only_workload(3, 64, 20, 4, 32)
    data = WeightOnlyData.of(workload)
    data.x[1, 40] = value
    made = run_weight_only(kernel_of(rule, workload), HOST, data)
    assert not np.isfinite(made[1]).any()
    assert np.isfinite(made[[0, 2]]).all()


def test_the_longest_groups_do_not_overflow():
    workload = weight_only_workload(1, 65000, 16, 8)
    data = WeightOnlyData.of(workload)
    data.x[:], data.w[:] = 1.0 - 2.0**-23, 127
    data.scale[:], data.bias[:] = 1.0, 0.0
    for name, rule in named_rules("matmul_weight_only").items():
        kernel = rule(workload, HOST)
        if kernel is not None:
            made = run_weight_only(kernel, HOST, data)
            want, bound = data.expected()
            assert (np.abs(made.astype(np.float64) - want) <= bound).all(), name


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("group_size", [0, 32])
def test_bytes_at_their_limits(device, bits, group_size):
    workload = weight_only_workload(1, 512, 24, bits, group_size)
    data = WeightOnlyData.of(workload)
    # 33 * 2**16 - 128 * 2**8 - 128 steps of 2**-21: two of the three bytes are -128.
    data.x[:] = np.float32((33 * 2**16 - 128 * 2**8 - 128) * 2.0**-21)
    data.w[:] = 2 ** (bits - 1) - 1
    data.w[::2] = -(2 ** (bits - 1))
    made = run_weight_only(KernelTable(device)[workload], device, data)
    want, bound = data.expected()
    assert (np.abs(made.astype(np.float64) - want) <= bound).all()


def test_too_long_groups_are_left_to_float_sums():
    assert digits(weight_only_workload(1, 70000, 16, 8), HOST) is None
    assert digits(weight_only_workload(1, 64, 16, 4, 8), HOST) is None


@pytest.mark.parametrize("rule", RULES)
def test_every_tile_is_right(rule):
    workload = weight_only_workload(6, 40, 150, 4, 16, True)
    kernel = kernel_of(rule, workload)
    configs = kernel.configs()
    assert len(configs) > 1
    for config in configs:
        assert kernel.estimate(config) < float("inf")
        check(workload, HOST, kernel=kernel.with_config(config))


def test_a_tile_that_does_not_fit_is_refused():
    kernel = WeightOnlyKernel(weight_only_workload(1, 64, 16, 4), HOST)
    with pytest.raises(ConfigError):
        kernel.with_config({"rows": 2, "vectors": 1})
    with pytest.raises(ConfigError):
        WeightOnlyKernel(kernel.workload, HOST, Sizes(1, 9))


@pytest.mark.parametrize(("bits", "share"), [(8, 1), (4, 2), (2, 4)])
def test_weights_are_stored_packed(bits, share):
    workload = weight_only_workload(1, 256, 256, bits, 128)
    kernel = WeightOnlyKernel(workload, HOST)
    data = WeightOnlyData.of(workload)
    assert kernel.pack(data.w, data.bias, data.params)[0].nbytes == 256 * 256 // share
