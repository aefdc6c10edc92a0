"""Blocks that share K, and the kernel that adds their sums, in an emulator of the GPU."""

from dataclasses import replace

import pytest
from cuda_tools import check_kernel
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_schedules_cuda import BITS, FLAVOURS, conv
from test_schedules_cuda_shapes import SMALL, windows

from tvmquant.schedules.cuda.candidates import choose
from tvmquant.schedules.cuda.kernel import TensorCoreKernel, tensor_core_kernel
from tvmquant.schedules.workload import Workload
from tvmquant.targets.cuda import arch_of

DEEP = Workload("matmul", (3, 1300), (20, 1300))


def split_kernel(workload, arch, splits, choice=0):
    """A kernel of so many splits; of any other sizes if there are none."""
    kernel = tensor_core_kernel(workload, arch_of(arch))
    own = [c for c in kernel.configs() if c["product"] == kernel.plan.product]
    found = [c for c in own if c["splits"] == splits]
    if found:
        return kernel.with_config(found[choice % len(found)])
    # More splits than are worth trying: some may have nothing to do.
    config = {**own[choice % len(own)], "splits": splits}
    return TensorCoreKernel(workload, kernel.arch, kernel.plan.with_config(config, workload))


def check(kernel, folder, seed, added=False):
    assert [name for name, *_ in kernel.scratch][-1:] == ["parts"]
    check_kernel(kernel, folder, seed, added=added)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_requantization_is_exact(flavour, tmp_path):
    workload = replace(DEEP, requantize=flavour)
    check(split_kernel(workload, "sm_80", 4), tmp_path, FLAVOURS.index(flavour), added=True)


@pytest.mark.parametrize("w_bits, x_bits", BITS)
def test_every_product_is_exact(w_bits, x_bits, tmp_path):
    workload = replace(DEEP, w_bits=w_bits, x_bits=x_bits)
    for seed, (arch, splits) in enumerate([("sm_80", 8), ("sm_90", 16)]):
        check(split_kernel(workload, arch, splits, seed * 7), tmp_path, seed)


@st.composite
def layers(draw):
    """Workload and the name of an architecture."""
    if draw(st.booleans()):
        rows, depth, outputs = (draw(st.integers(1, n)) for n in (40, 3000, 60))
        workload = Workload("matmul", (rows, depth), (outputs, depth))
    else:
        groups = draw(st.integers(1, 2))
        inner = draw(st.sampled_from([3, 16, 40, 128]))
        shape = (draw(SMALL), draw(st.integers(5, 7)), draw(st.integers(5, 7)), inner * groups)
        workload = conv(shape, draw(st.integers(1, 24)) * groups, *draw(windows()), groups=groups)
    assume(min(workload.out_shape) > 0)
    w_bits, x_bits = draw(st.sampled_from(BITS))
    flavour = draw(st.sampled_from(FLAVOURS))
    workload = replace(workload, x_bits=x_bits, w_bits=w_bits, requantize=flavour)
    return workload, draw(st.sampled_from(["sm_75", "sm_80", "sm_90"]))


@settings(max_examples=6, deadline=None)
@given(layers(), st.sampled_from([2, 3, 4, 16]), st.integers(0, 10**6), st.integers(0, 99))
def test_layers_of_any_shape(tmp_path_factory, layer, splits, choice, seed):
    kernel = split_kernel(*layer, splits, choice)
    check(kernel, tmp_path_factory.getbasetemp(), seed, added=seed % 3 == 0)


def test_only_few_blocks_are_split():
    arch = arch_of("sm_90")
    few = Workload("matmul", (1, 25088), (64, 25088))
    assert choose(few, arch).splits > 1
    many = tensor_core_kernel(Workload("matmul", (4096, 4096), (4096, 4096)), arch)
    assert {config["splits"] for config in many.configs()} == {1}
    label = tensor_core_kernel(few, arch).label
    assert f"in {choose(few, arch).splits} parts" in label
