"""Tensor core kernels in an emulator of the GPU, against the NumPy reference."""

import dataclasses

import numpy as np
import pytest
from cuda_tools import run_kernel
from kernel_tools import expected, make_data

from tvmquant.schedules.cuda.kernel import tensor_core_kernel
from tvmquant.schedules.workload import Workload
from tvmquant.targets.cuda import arch_of

BITS = [(8, 8), (4, 8), (2, 8), (1, 8), (4, 4), (2, 2), (1, 2), (1, 1)]
FLAVOURS = ["float", "fixed_point", "power_of_two", "dequantize", "none"]


def conv(shape, outputs, kernel, strides=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1), groups=1):
    weight = (outputs, *kernel, shape[-1] // groups)
    return Workload("conv2d", shape, weight, strides, padding, dilation, groups)


LAYERS = {
    "3x3": conv((1, 7, 9, 32), 40, (3, 3)),
    "1x1": conv((2, 5, 5, 48), 20, (1, 1), padding=(0, 0, 0, 0)),
    "strided": conv((1, 9, 8, 16), 24, (3, 3), (2, 2), (0, 1, 1, 0)),
    "dilated": conv((1, 9, 9, 8), 8, (3, 2), (1, 1), (2, 0, 2, 0), (2, 3)),
    "grouped": conv((1, 6, 5, 24), 12, (3, 3), groups=3),
    "first": conv((1, 11, 10, 3), 16, (7, 7), (2, 2), (3, 3, 3, 3)),
    "matmul": Workload("matmul", (5, 200), (70, 200)),
    "odd matmul": Workload("matmul", (17, 33), (9, 33)),
}


def check(workload, arch, folder, *, seed=0, extreme=False, reverse=False):
    kernel = tensor_core_kernel(workload, arch_of(arch))
    data = make_data(workload, seed, extreme)
    got = run_kernel(kernel, folder, *data, reverse=reverse)
    np.testing.assert_array_equal(got, expected(workload, *data))


@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_90"])
@pytest.mark.parametrize("w_bits, x_bits", BITS)
def test_every_product_is_exact(w_bits, x_bits, arch, tmp_path):
    workload = dataclasses.replace(LAYERS["3x3"], w_bits=w_bits, x_bits=x_bits)
    check(workload, arch, tmp_path)


@pytest.mark.parametrize("name", LAYERS)
def test_every_form_of_layer_is_exact(name, tmp_path):
    check(LAYERS[name], "sm_80", tmp_path, seed=1, extreme=True, reverse=True)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_requantization_is_exact(flavour, tmp_path):
    check(dataclasses.replace(LAYERS["matmul"], requantize=flavour), "sm_80", tmp_path, seed=2)
