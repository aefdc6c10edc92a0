"""Weight-only kernels against the NumPy reference, on every instruction set here."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from weight_only_tools import DEVICES, HOST, WeightOnlyData, run_weight_only, weight_only_workload

from tvmquant.schedules.registry import find_kernel, named_rules
from tvmquant.schedules.space import ConfigError
from tvmquant.schedules.weight_only import WeightOnlyKernel
from tvmquant.schedules.weight_only.plan import Sizes


def check(workload, device, seed=0, spread=1.0, kernel=None):
    data = WeightOnlyData.of(workload, seed, spread)
    made = run_weight_only(kernel or find_kernel(workload, device), device, data)
    want, bound = data.expected()
    assert np.isfinite(made).all()
    worst = np.max(np.abs(made.astype(np.float64) - want) / bound)
    assert worst <= 1, f"{worst} of the bound"


SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 150), st.integers(1, 100))


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
@settings(max_examples=15, deadline=None)
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


@pytest.mark.parametrize("name", named_rules("matmul_weight_only"))
def test_every_rule_serves_activations_of_very_different_size(name):
    workload = weight_only_workload(2, 256, 48, 4, 32, True)
    kernel = named_rules("matmul_weight_only")[name](workload, HOST)
    if kernel is None:
        pytest.skip("not on this processor")
    check(workload, HOST, spread=4.0, kernel=kernel)


def test_every_tile_is_right():
    workload = weight_only_workload(6, 40, 150, 4, 16, True)
    kernel = WeightOnlyKernel(workload, HOST)
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
