"""Kernels on Hopper's products of four warps, in an emulator of the GPU."""

from dataclasses import replace

import numpy as np
import pytest
from cuda_tools import check_kernel, run_kernel
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernel_tools import expected, make_data
from test_schedules_cuda import FLAVOURS, LAYERS, conv
from test_schedules_cuda_shapes import layers

from tvmquant.schedules.cuda.rules import tensor_cores, warpgroups
from tvmquant.schedules.cuda.warpgroup import WarpgroupKernel, warpgroup_kernel
from tvmquant.schedules.cuda.warpgroup_plan import (
    COLUMNS,
    WarpgroupPlan,
    moved_registers,
    warpgroup_plans,
)
from tvmquant.schedules.registry import considered_rules
from tvmquant.schedules.space import ConfigError
from tvmquant.schedules.workload import Workload
from tvmquant.targets import get_device
from tvmquant.targets.cuda import ARCHES, arch_of

HOPPER = arch_of("sm_90")
BITS = [(8, 8), (4, 8), (2, 8), (1, 8), (4, 4)]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("w_bits, x_bits", BITS)
def test_weights_of_any_bits_are_exact(w_bits, x_bits, reverse, tmp_path):
    layer = replace(LAYERS["3x3"], w_bits=w_bits, x_bits=x_bits)
    check_kernel(warpgroup_kernel(layer, HOPPER), tmp_path, extreme=True, reverse=reverse)


@pytest.mark.parametrize("name", LAYERS)
def test_every_form_of_layer_is_exact(name, tmp_path):
    check_kernel(warpgroup_kernel(LAYERS[name], HOPPER), tmp_path, 1, extreme=True, reverse=True)


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_requantization_is_exact(flavour, added, tmp_path):
    layer = replace(LAYERS["matmul"], requantize=flavour)
    check_kernel(warpgroup_kernel(layer, HOPPER), tmp_path, 2, added=added)


def traits(config):
    """What a configuration is an example of."""
    names = ("source", "producers", "stages", "block_k", "warp_m", "warp_n")
    found = {(name, config[name]) for name in names}
    groups = [config[f"block_{axis}"] // config[f"warp_{axis}"] for axis in "mn"]
    return found | {("groups", *groups)}


def cover(kernel):
    """Few configurations that have all traits of the search space."""
    space = [(config, traits(config)) for config in kernel.configs()]
    missing = set().union(*(has for _, has in space))
    while missing:
        config, has = max(space, key=lambda pair: len(pair[1] & missing))
        missing -= has
        yield config


@pytest.mark.parametrize("w_bits", [pytest.param(8, marks=pytest.mark.slow), 4])
def test_every_kind_of_tile_computes_the_same(w_bits, tmp_path):
    layer = replace(conv((1, 15, 20, 32), 136, (2, 2)), w_bits=w_bits)
    kernel = warpgroup_kernel(layer, HOPPER)
    data = make_data(layer, 3, extreme=True)
    meant = expected(layer, *data)
    for index, config in enumerate(cover(kernel)):
        got = run_kernel(kernel.with_config(config), tmp_path, *data, reverse=index % 2 == 1)
        np.testing.assert_array_equal(got, meant, err_msg=str(config))


def test_producers_leave_their_registers_to_the_others(tmp_path):
    layer = replace(conv((1, 15, 20, 32), 72, (3, 3)), w_bits=4)
    tile = {"block_m": 256, "block_n": 128, "block_k": 128, "warp_m": 256, "warp_n": 64}
    rest = {"stages": 3, "producers": 1, "source": "registers"}
    kernel = warpgroup_kernel(layer, HOPPER).with_config({**tile, **rest})
    left, moved = moved_registers(layer, kernel.plan)
    assert left + 2 * moved <= 3 * 168 < 3 * moved
    assert moved_registers(layer, replace(kernel.plan, source="shared")) == (0, 0)
    check_kernel(kernel, tmp_path, extreme=True)


@settings(max_examples=8, deadline=None)
@given(layers(), st.integers(0, 10**6), st.integers(0, 99), st.booleans())
def test_layers_of_any_shape_at_any_tile(tmp_path_factory, layer, choice, seed, added):
    kernel = warpgroup_kernel(layer[0], HOPPER)
    assume(kernel is not None)
    configs = kernel.configs()
    kernel = kernel.with_config(configs[choice % len(configs)])
    folder = tmp_path_factory.getbasetemp()
    check_kernel(kernel, folder, seed, extreme=seed % 2 == 1, added=added, reverse=seed % 4 < 2)


LARGE = [
    conv((64, 14, 14, 256), 256, (3, 3)),
    conv((64, 7, 7, 512), 2048, (1, 1), padding=(0, 0, 0, 0)),
    Workload("matmul", (4096, 4096), (4096, 4096)),
]


@pytest.mark.parametrize("layer", LARGE, ids=lambda layer: f"{layer.w_shape}")
@pytest.mark.parametrize("w_bits", [8, 4])
def test_large_layers_prefer_them_and_small_ones_do_not(layer, w_bits):
    device = get_device("cuda-sm_90")
    assert isinstance(warpgroups(replace(layer, w_bits=w_bits), device), WarpgroupKernel)
    few = Workload("matmul", (1, 2048), (1000, 2048), w_bits=w_bits)
    assert warpgroups(few, device) is None
    assert tensor_cores(few, device) is not None
    # The tuner measures both, always.
    assert {rule.rpartition(".")[2] for rule in considered_rules("cuda/matmul")} >= {
        "warpgroups",
        "tensor_cores",
    }
    assert all(consider(few, device) for consider in considered_rules("cuda/matmul").values())


def test_only_hopper_has_them():
    have = [arch.name for arch in ARCHES.values() if warpgroup_kernel(LARGE[2], arch)]
    assert have == ["sm_90"]
    device = get_device("cuda-sm_80")
    assert warpgroups(LARGE[2], device) is None
    assert device.target.arch == "sm_80"
    assert get_device("cuda-sm_90").target.arch == "sm_90a"


def test_widths_are_those_that_the_instruction_has():
    assert {plan.warp_m for plan in warpgroup_plans(LARGE[2], HOPPER)} <= set(COLUMNS)
    assert all(columns % 8 == 0 and columns <= 256 for columns in COLUMNS)
    assert not {40, 56, 72, 120} & set(COLUMNS)


def test_sizes_that_do_not_fit_are_refused():
    kernel = warpgroup_kernel(LARGE[0], HOPPER)
    changes = (
        {"producers": 2},
        {"stages": 2},
        {"block_k": 32},
        {"warp_m": 40, "block_m": 40},
        {"warp_n": 32},
    )
    for change in changes:
        with pytest.raises(ConfigError):
            kernel.with_config({**kernel.plan.config, **change})
    with pytest.raises(ConfigError, match="registers or shared"):
        kernel.with_config({**kernel.plan.config, "source": "disk"})
    with pytest.raises(ConfigError, match="has no products of four warps"):
        WarpgroupPlan(8, 64, 64, 128, 64, 64, 3).check(arch_of("sm_80"))
