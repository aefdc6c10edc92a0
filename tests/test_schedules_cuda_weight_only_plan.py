"""Sizes of weight-only kernels on tensor cores, and who has such a kernel."""

import dataclasses

import pytest
from weight_only_tools import weight_only_workload

from tvmquant.schedules import registry
from tvmquant.schedules.cuda.plain import WeightOnlyKernel
from tvmquant.schedules.cuda.weight_only import WeightOnlyTensorKernel
from tvmquant.schedules.cuda.weight_only_estimate import choose, cycles, plans
from tvmquant.schedules.cuda.weight_only_plan import Layout
from tvmquant.schedules.space import ConfigError
from tvmquant.targets.cuda import arch_of
from tvmquant.targets.device import get_device

SM_90 = arch_of("sm_90")


def kernel_of(workload, target):
    device = get_device(target)
    rules = registry.rules_for(registry.rules_key(workload.op, device))
    return next(filter(None, (rule(workload, device) for rule in rules)))


@pytest.mark.parametrize("target", ["cuda-sm_80", "cuda-sm_90", "cuda-sm_120"])
def test_large_layers_are_on_tensor_cores(target):
    workload = weight_only_workload(1, 1024, 1024, 4, 128)
    kernel = kernel_of(workload, target)
    assert isinstance(kernel, WeightOnlyTensorKernel)
    assert kernel.plan == choose(workload, kernel.arch)
    assert kernel.estimate(kernel.configs()[0]) == min(map(kernel.estimate, kernel.configs()))


@pytest.mark.parametrize(
    "target, workload",
    [
        ("cuda-sm_75", weight_only_workload(1, 1024, 1024, 4, 128)),
        ("cuda-sm_90", weight_only_workload(1, 96, 40, 4, 32)),
        ("cuda-sm_90", weight_only_workload(1, 1024, 1024, 4, 8)),
    ],
    ids=["sm_75", "tiny", "short groups"],
)
def test_others_are_not(target, workload):
    assert isinstance(kernel_of(workload, target), WeightOnlyKernel)


def test_the_tuner_measures_it_wherever_it_is_correct():
    rules = registry.considered_rules("cuda/matmul_weight_only")
    workload = weight_only_workload(1, 96, 40, 4, 8)
    kernels = [rule(workload, get_device("cuda-sm_90")) for rule in rules.values()]
    assert [type(k) for k in kernels] == [WeightOnlyTensorKernel, WeightOnlyKernel]
    assert next(iter(rules.values()))(workload, get_device("cuda-sm_75")) is None


@pytest.mark.parametrize(
    "depth, bits, group, unit, units, span, spans",
    [
        (4096, 4, 128, 128, 1, 128, 32),
        (4096, 4, 32, 32, 1, 64, 64),  # a vector of weights holds two groups
        (4096, 2, 64, 64, 1, 128, 32),
        (4096, 8, 0, 128, 32, 128, 32),
        (4096, 8, 96, 32, 3, 32, 129),  # whole units of 32: nothing is wasted
        (4100, 4, 0, 128, 33, 128, 33),  # a few inputs more do not make units short
        (1000, 4, 100, 128, 1, 128, 10),
    ],
)
def test_layout(depth, bits, group, unit, units, span, spans):
    layout = Layout.of(weight_only_workload(1, depth, 64, bits, group))
    assert (layout.unit, layout.group_units, layout.span, layout.spans) == (
        unit,
        units,
        span,
        spans,
    )
    assert layout.loads * 512 * 8 == 16 * layout.span * bits


@pytest.mark.parametrize("group", [16, 32, 64, 96, 128, 256, 0])
@pytest.mark.parametrize("depth", [256, 4096, 28672])
def test_no_sizes_round_more_than_the_bound_allows(group, depth):
    """As :func:`tvmquant.reference.weight_only_bound` counts roundings.

    Halves of an activation have magnitudes that are together at most 2**-13 of the unit's largest
    above its own, and activations are rounded to 2**-29 of it, where the bound allows 2**-21. Of
    planes these are 2**-15 (the last byte), and 2**-22 of what is at most 1.005 times the largest.
    """
    size = min(group or depth, depth)
    allowed = size + -(-depth // size) + 6
    for rows, apart, rounded in ((1, 2.0**-13, 2.0**-30), (8, 2.0**-15, 1.005 * 2.0**-23)):
        workload = weight_only_workload(rows, depth, 64, 4, group, True)
        found = {plan.roundings for plan in plans(workload, SM_90) if plan.planes == (rows == 8)}
        assert max(found) <= allowed
        assert max(found) * 2.0**-24 * apart + rounded <= 2.0**-22


def test_sizes_that_do_not_fit_are_refused():
    old = weight_only_workload(4, 4096, 4096, 4, 128)
    kernel = WeightOnlyTensorKernel(old, choose(old, arch_of("sm_80")))
    with pytest.raises(ConfigError, match="do not fit sm_80"):
        kernel.with_config({**kernel.plan.config, "early": True})
    workload = weight_only_workload(4, 4096, 4096, 4, 128)
    kernel = WeightOnlyTensorKernel(workload, choose(workload, SM_90))
    for change in (
        {"rows": 3},
        {"warps_k": 16, "warps_m": 2},
        {"tiles": 4, "ahead": 8},
        {"launches": 3},
        {"rows": 512},
        {"splits": 24},  # of 32 spans: the last parts would have none
    ):
        with pytest.raises(ConfigError, match="do not fit sm_90"):
            kernel.with_config({**kernel.plan.config, **change})
    with pytest.raises(ConfigError, match="are needed"):
        kernel.with_config({"tiles": 1})


@pytest.mark.parametrize("group", [32, 128])
@pytest.mark.parametrize("rows", [1, 8, 32])
@pytest.mark.parametrize("size", [4096, 8192])
def test_all_multiprocessors_have_work_and_ask_for_it_early(size, rows, group):
    plan = choose(weight_only_workload(rows, size, size, 4, group), SM_90)
    assert plan.grid_blocks >= 0.95 * SM_90.multiprocessors
    assert plan.threads >= 256
    # Little's law: what is on its way keeps memory busy; of many rows, products take longer.
    assert plan.flying * plan.reach * plan.resident >= (32 if rows < 32 else 16) << 10


def test_the_next_launch_has_room_beside_the_usual_one_of_a_row():
    plan = choose(weight_only_workload(1, 4096, 4096, 4, 128), SM_90)
    assert plan.resident == 2
    # All of its weights are asked for before it waits for the launch before.
    tiles = plan.tiles * plan.warps_m
    assert plan.flying * plan.reach == tiles * plan.part * plan.layout.loads * 512
    kernel = WeightOnlyTensorKernel(weight_only_workload(1, 4096, 4096, 4, 128), plan)
    assert kernel.launch.resident == 2 and kernel.launch.early


@pytest.mark.parametrize("arch, early", [("sm_80", False), ("sm_90", True), ("sm_120", True)])
def test_launches_start_early_where_the_gpu_can(arch, early):
    workload = weight_only_workload(16, 8192, 8192, 4, 128)
    kernel = WeightOnlyTensorKernel(workload, choose(workload, arch_of(arch)))
    assert all(launch.early == early for launch in kernel.launches)
    # The tuner measures the same sizes without it, too.
    late = [{**kernel.plan.config, "early": False}]
    assert (kernel.configs()[1:2] == late) == early
    assert not any(launch.early for launch in kernel.with_config(*late).launches)
    assert (kernel.estimate(*late) > kernel.estimate(kernel.plan.config)) == early


def test_many_rows_share_k_between_blocks_and_have_a_launch_for_the_digits():
    one, many = (choose(weight_only_workload(n, 8192, 8192, 4, 128), SM_90) for n in (1, 16))
    assert (one.launches, one.splits, one.planes) == (1, 1, False)
    assert (many.launches, many.planes) == (2, True) and many.splits > 1
    for change in ({"launches": 1}, {"splits": 1}):
        other = many.with_config({**many.config, **change})
        assert cycles(many) < cycles(other)


def test_digits_come_in_chunks_that_leave_room():
    plan = choose(weight_only_workload(32, 8192, 8192, 4, 128), SM_90)
    plan = plan.with_config({**plan.config, "launches": 2, "splits": 2})
    assert plan.chunks > 1 and plan.digit_bytes(plan.rounds) <= 32 << 10
    assert plan.rounds * plan.warps_k * plan.chunks == plan.part
    alone = dataclasses.replace(plan, launches=1)
    assert alone.digit_bytes(alone.rounds) > plan.digit_bytes(plan.rounds)
