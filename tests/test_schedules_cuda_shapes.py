"""Tensor core kernels of random layers at random tiles, in an emulator of the GPU."""

from dataclasses import replace

import numpy as np
from cuda_tools import run_kernel
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernel_tools import expected, make_data
from test_schedules_addition import add, make_sum
from test_schedules_cuda import FLAVOURS, conv
from test_schedules_cuda_plain import depthwise

from tvmquant.schedules.cuda.kernel import tensor_core_kernel
from tvmquant.schedules.cuda.plain import DepthwiseKernel
from tvmquant.schedules.linear.addition import INTEGER_FORMS
from tvmquant.schedules.workload import Workload
from tvmquant.targets.cuda import arch_of

SMALL = st.integers(1, 3)


@st.composite
def windows(draw):
    """Kernel, strides, padding and dilation."""
    kernel, strides, dilation = (draw(st.tuples(SMALL, SMALL)) for _ in range(3))
    padding = draw(st.tuples(*(st.integers(0, 2) for _ in range(4))))
    return kernel, strides, padding, dilation


@st.composite
def layers(draw):
    """Workload and the name of an architecture."""
    if draw(st.integers(0, 2)) == 0:
        rows, depth, outputs = (draw(st.integers(1, n)) for n in (20, 400, 60))
        workload = Workload("matmul", (rows, depth), (outputs, depth))
    else:
        groups = draw(st.integers(1, 3))
        inner, outer = draw(st.integers(1, 40)), draw(st.integers(1, 24))
        shape = (draw(SMALL), draw(st.integers(5, 9)), draw(st.integers(5, 9)), inner * groups)
        workload = conv(shape, outer * groups, *draw(windows()), groups=groups)
    assume(min(workload.out_shape) > 0)
    x_bits, w_bits = draw(st.sampled_from([(8, 8), (8, 8), (8, 4), (4, 4), (8, 2), (2, 1), (1, 1)]))
    flavour = draw(st.sampled_from(FLAVOURS))
    workload = replace(workload, x_bits=x_bits, w_bits=w_bits, requantize=flavour)
    return workload, draw(st.sampled_from(["sm_75", "sm_80", "sm_90"]))


def check(kernel, folder, seed, added):
    *data, qinfo = make_data(kernel.workload, seed, extreme=seed % 2 == 1)
    meant = expected(kernel.workload, *data, qinfo)
    others = []
    if added and kernel.workload.out_dtype == "uint8":
        total = make_sum(qinfo, INTEGER_FORMS[seed % 3], seed=seed)
        form, numbers = total.encode(False)
        others = [np.random.default_rng(seed).integers(0, 256, meant.shape).astype(np.uint8)]
        meant = add(meant, others[0], total)
        kernel, qinfo = kernel.with_residual(form), np.concatenate([qinfo, numbers])
    got = run_kernel(kernel, folder, *data, qinfo, *others, reverse=seed % 2 == 0)
    np.testing.assert_array_equal(got, meant)


@settings(max_examples=12, deadline=None)
@given(layers(), st.integers(0, 10**6), st.integers(0, 99), st.booleans())
def test_layers_of_any_shape_at_any_tile(tmp_path_factory, layer, choice, seed, added):
    workload, arch = layer
    kernel = tensor_core_kernel(workload, arch_of(arch))
    configs = kernel.configs()
    kernel = kernel.with_config(configs[choice % len(configs)])
    check(kernel, tmp_path_factory.getbasetemp(), seed, added)


@settings(max_examples=6, deadline=None)
@given(windows(), st.integers(1, 24), st.sampled_from(FLAVOURS), st.integers(0, 99), st.booleans())
def test_depthwise_layers_of_any_shape(tmp_path_factory, window, channels, flavour, seed, added):
    workload = depthwise((1, 8, 7, channels), *window, requantize=flavour)
    check(DepthwiseKernel(workload), tmp_path_factory.getbasetemp(), seed, added)
