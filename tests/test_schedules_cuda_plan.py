"""Tiles of tensor core kernels: each kind computes the same, and what is emulated is refused."""

import dataclasses

import numpy as np
import pytest
from cuda_tools import run_kernel
from kernel_tools import expected, make_data
from test_schedules_cuda import LAYERS, conv

from tvmquant.schedules.cuda.candidates import choose
from tvmquant.schedules.cuda.kernel import tensor_core_kernel
from tvmquant.schedules.cuda.plan import products_of
from tvmquant.schedules.space import ConfigError
from tvmquant.schedules.workload import Workload
from tvmquant.targets.cuda import ARCHES, arch_of

DEEP = Workload("matmul", (18, 600), (44, 600))


def traits(config, sliced_only):
    """What a configuration is an example of."""
    names = ("product", "packed", "stages", "slices", "splits", "block_k")
    found = {(name, config[name]) for name in names}
    if not sliced_only:
        for axis in "mn":
            found.add((axis, config[f"block_{axis}"], config[f"warp_{axis}"]))
    return found


def cover(kernel, sliced_only=False):
    """Few configurations that have all traits of the search space."""
    space = [(config, traits(config, sliced_only)) for config in kernel.configs()]
    missing = set().union(*(has for _, has in space))
    while missing:
        config, has = max(space, key=lambda pair: len(pair[1] & missing))
        missing -= has
        yield config


@pytest.mark.parametrize(
    "workload, arch, sliced_only",
    [
        (LAYERS["3x3"], "sm_80", False),
        (dataclasses.replace(DEEP, w_bits=4), "sm_90", True),
        (dataclasses.replace(DEEP, w_bits=1, x_bits=1), "sm_80", True),
    ],
    ids=["w8a8", "w4a8", "w1a1"],
)
def test_every_kind_of_tile_computes_the_same(workload, arch, sliced_only, tmp_path):
    kernel = tensor_core_kernel(workload, arch_of(arch))
    data = make_data(workload, 3, extreme=True)
    meant = expected(workload, *data)
    for index, config in enumerate(cover(kernel, sliced_only)):
        got = run_kernel(kernel.with_config(config), tmp_path, *data, reverse=index % 2 == 1)
        np.testing.assert_array_equal(got, meant, err_msg=str(config))


def test_few_blocks_share_their_depth_among_warps():
    arch = arch_of("sm_80")
    few = [Workload("matmul", (1, 2048), (1000, 2048)), conv((1, 7, 7, 512), 512, (3, 3))]
    many = [conv((8, 56, 56, 64), 64, (3, 3)), Workload("matmul", (4096, 4096), (4096, 4096))]
    assert all(choose(workload, arch).slices > 1 for workload in few)
    assert all(choose(workload, arch).slices == 1 for workload in many)


@pytest.mark.parametrize("arch", ARCHES.values(), ids=lambda arch: arch.name)
def test_nothing_that_is_emulated_is_chosen_or_searched(arch):
    for bits in (8, 4, 1):
        workload = dataclasses.replace(LAYERS["1x1"], w_bits=bits, x_bits=bits)
        kernel = tensor_core_kernel(workload, arch)
        assert kernel.plan.product == products_of(workload, arch)[0]
        assert {config["product"] for config in kernel.configs()} == set(
            products_of(workload, arch)
        )
        assert set(products_of(workload, arch)) <= set(arch.products)


@pytest.mark.parametrize(
    "arch, bits, product, sentence",
    [
        ("sm_90", 4, "U4S4", r"sm_90 \(H100, H200\) do not have U4S4.*use U8S8 or BITS_AND"),
        ("sm_120", 1, "BITS_AND", r"sm_120 \(RTX 50\) do not have BITS_AND.*: use U8S8$"),
        ("sm_90", 1, "BITS_XOR", "do not have BITS_XOR"),
        ("sm_75", 1, "BITS_AND", "do not have BITS_AND"),
        ("sm_80", 8, "U4S4", "U4S4 cannot multiply 8-bit weights by 8-bit activations"),
        ("sm_80", 8, "FLOAT", "FLOAT cannot multiply"),
    ],
)
def test_products_that_are_not_there_are_refused(arch, bits, product, sentence):
    workload = dataclasses.replace(LAYERS["1x1"], w_bits=bits, x_bits=bits)
    kernel = tensor_core_kernel(workload, arch_of(arch))
    with pytest.raises(ConfigError, match=sentence):
        kernel.with_config({**kernel.plan.config, "product": product})


def test_sizes_that_do_not_fit_are_refused():
    kernel = tensor_core_kernel(DEEP, arch_of("sm_80"))
    for change in ({"block_k": 16}, {"stages": 1}, {"slices": 16}, {"warp_m": 1024}):
        with pytest.raises(ConfigError):
            kernel.with_config({**kernel.plan.config, **change})
    with pytest.raises(ConfigError, match="are needed"):
        kernel.with_config({"block_m": 16})
