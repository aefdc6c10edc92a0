"""Tensor core kernels of random layers at random tiles, in an emulator of the GPU."""

from dataclasses import replace

from cuda_tools import check_kernel
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_schedules_cuda import FLAVOURS, conv
from test_schedules_cuda_plain import depthwise

from tvmquant.schedules.cuda.kernel import tensor_core_kernel
from tvmquant.schedules.cuda.plain import DepthwiseKernel
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


@settings(max_examples=8, deadline=None)
@given(layers(), st.integers(0, 10**6), st.integers(0, 99), st.booleans())
def test_layers_of_any_shape_at_any_tile(tmp_path_factory, layer, choice, seed, added):
    workload, arch = layer
    kernel = tensor_core_kernel(workload, arch_of(arch))
    configs = kernel.configs()
    kernel = kernel.with_config(configs[choice % len(configs)])
    check_kernel(kernel, tmp_path_factory.getbasetemp(), seed, added=added)


@settings(max_examples=6, deadline=None)
@given(windows(), st.integers(1, 24), st.sampled_from(FLAVOURS), st.integers(0, 99), st.booleans())
def test_depthwise_layers_of_any_shape(tmp_path_factory, window, channels, flavour, seed, added):
    workload = depthwise((1, 8, 7, channels), *window, requantize=flavour)
    check_kernel(DepthwiseKernel(workload), tmp_path_factory.getbasetemp(), seed, added=added)
