"""Winograd kernels of every kind, on every instruction set that this CPU executes."""

import numpy as np
import pytest
from kernel_tools import expected, make_data, run

from tvmquant.schedules.winograd import WinogradKernel
from tvmquant.schedules.winograd.choose import METHODS, fastest
from tvmquant.schedules.winograd.operands import instruction_set
from tvmquant.schedules.workload import Workload
from tvmquant.targets import get_device

HOST = get_device()
_AVX512 = ("avx512f", "avx512bw", "avx512vl", "avx512vnni", "avx512vbmi", "avx512vpopcntdq")


def devices():
    """The host and ever lesser processors, by instruction set."""
    found = {}
    for missing in ((), ("avx512vnni", "avxvnni"), _AVX512, (*_AVX512, "avxvnni")):
        lesser = HOST.without(*missing) if missing else HOST
        if instruction_set(lesser) is not None:
            found.setdefault(instruction_set(lesser), lesser)
    return found


DEVICES = devices()
on_every_device = pytest.mark.parametrize("isa", DEVICES)


def conv(n, h, w, c, o, padding=(1, 1, 1, 1), **more):
    return Workload("conv2d", (n, h, w, c), (o, 3, 3, c), (1, 1), padding, (1, 1), **more)


def make_kernel(workload, isa, *methods):
    plan = fastest(workload, isa, methods or METHODS)
    return None if plan is None else WinogradKernel(plan)


def run_on(kernel, isa, data):
    """Run the kernel on a device of this instruction set."""
    return run(kernel, DEVICES[isa], *data)


def check(kernel, isa, seed=0):
    data = make_data(kernel.workload, seed)
    got = run_on(kernel, isa, data)
    np.testing.assert_array_equal(got, expected(kernel.workload, *data), err_msg=kernel.name)
