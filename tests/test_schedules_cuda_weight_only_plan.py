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
    above its own, and activations are rounded to 2**-29 of it, where the bound allows 2**-21.
    """
    workload = weight_only_workload(1, depth, 64, 4, group, True)
    size = min(group or depth, depth)
    allowed = size + -(-depth // size) + 6
    roundings = [plan.roundings for plan in plans(workload, SM_90)]
    assert max(roundings) <= allowed
    assert max(roundings) * 2.0**-24 * 2.0**-13 + 2.0**-30 <= 2.0**-22


def test_sizes_that_do_not_fit_are_refused():
    workload = weight_only_workload(4, 4096, 4096, 4, 128)
    kernel = WeightOnlyTensorKernel(workload, choose(workload, SM_90))
    for change in (
        {"rows": 3},
        {"warps_k": 16, "warps_m": 2},
        {"tiles": 4, "ahead": 8},
        {"launches": 3},
        {"rows": 512},
    ):
        with pytest.raises(ConfigError, match="do not fit sm_90"):
            kernel.with_config({**kernel.plan.config, **change})
    with pytest.raises(ConfigError, match="are needed"):
        kernel.with_config({"tiles": 1})


def test_all_multiprocessors_have_the_same_work_where_channels_allow():
    for rows, depth, outputs in ((1, 4096, 4096), (1, 8192, 8192), (8, 8192, 8192)):
        plan = choose(weight_only_workload(rows, depth, outputs, 4, 128), SM_90)
        assert plan.blocks * plan.row_blocks >= 0.95 * SM_90.multiprocessors
        assert plan.threads >= 256
        # Little's law: what is on its way keeps memory busy.
        assert plan.threads * 16 * plan.tiles * plan.layout.loads * plan.ahead >= 24 << 10


def test_a_launch_for_the_digits_pays_for_many_rows():
    one, many = (choose(weight_only_workload(n, 8192, 8192, 4, 128), SM_90) for n in (1, 16))
    assert (one.launches, many.launches) == (1, 2)
    assert cycles(many) < cycles(dataclasses.replace(many, launches=1))
