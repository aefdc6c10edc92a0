"""Residual additions of CUDA kernels in an emulator of the GPU, against two NumPy references."""

import dataclasses

import numpy as np
import pytest
from cuda_tools import run_kernel
from kernel_tools import expected, make_data
from test_schedules_addition import make_sum
from test_schedules_cuda import conv
from test_schedules_cuda_plain import depthwise

from tvmquant.schedules.cuda.kernel import tensor_core_kernel
from tvmquant.schedules.cuda.plain import DepthwiseKernel
from tvmquant.schedules.linear.addition import INTEGER_FORMS
from tvmquant.schedules.meaning import with_sum
from tvmquant.schedules.selection import KernelTable
from tvmquant.schedules.workload import Workload
from tvmquant.targets import get_device
from tvmquant.targets.cuda import arch_of

MULTIPLIERS = [(1 << 21, 1234567), (-5, 3), (1 << 22, 1 << 22)]


def check(kernel, form, multipliers, folder, seed=0):
    """``kernel`` is the one without the addition."""
    *data, qinfo = make_data(kernel.workload, seed)
    total = make_sum(qinfo, form, multipliers, seed)
    encoded, numbers = total.encode(False)
    assert encoded == form
    shape = kernel.workload.out_shape
    other = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    fused = kernel.with_residual(form)
    assert fused.name != kernel.name and fused.label == kernel.label
    assert [name for name, *_ in fused.arguments][-3:] == ["qinfo", "other", "out"]
    given = np.concatenate([qinfo, numbers])
    got = run_kernel(fused, folder, *data, given, other)
    own = expected(kernel.workload, *data, qinfo)
    np.testing.assert_array_equal(got, with_sum(own, other, total))


# Channels that are stored 16, 8, 4 bytes and one byte at a time.
@pytest.mark.parametrize("outputs", [48, 40, 20, 9])
@pytest.mark.parametrize("form", INTEGER_FORMS)
def test_tensor_core_kernels(form, outputs, tmp_path):
    index = INTEGER_FORMS.index(form)
    workload = conv((1, 6, 7, 16), outputs, (3, 3))
    workload = dataclasses.replace(workload, requantize=INTEGER_FORMS[outputs % 3])
    kernel = tensor_core_kernel(workload, arch_of("sm_80"))
    check(kernel, form, MULTIPLIERS[index], tmp_path, outputs)


def test_products_of_bits_and_matrices(tmp_path):
    workload = Workload("matmul", (3, 300), (48, 300), x_bits=1, w_bits=1)
    kernel = tensor_core_kernel(workload, arch_of("sm_90"))
    assert kernel.plan.product == "BITS_AND"
    check(kernel, "float", MULTIPLIERS[0], tmp_path)


@pytest.mark.parametrize("channels", [12, 5])
@pytest.mark.parametrize("form", INTEGER_FORMS)
def test_depthwise_kernels(form, channels, tmp_path):
    workload = depthwise((1, 6, 7, channels), (3, 3), (1, 1), (1, 1, 1, 1))
    check(DepthwiseKernel(workload), form, MULTIPLIERS[0], tmp_path, channels)


def test_the_plain_workload_decides_the_kernel():
    kernels = KernelTable(get_device("cuda-sm_80"))
    workload = conv((1, 14, 14, 64), 64, (3, 3))
    fused = kernels[dataclasses.replace(workload, residual="float")]
    assert fused.plan == kernels[workload].plan and fused.workload.residual == "float"
