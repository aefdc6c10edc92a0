"""NEON kernels with a residual addition in their epilogue, against the two NumPy references."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_tools import expected, make_data
from neon_tools import Program, arm_device, conv, needs_emulator
from test_schedules_addition import FLAVOURS, MULTIPLIERS, make_sum

from tvmquant.schedules.linear.addition import INTEGER_FORMS
from tvmquant.schedules.meaning import with_sum
from tvmquant.schedules.neon import DirectKernel, NeonWinogradKernel
from tvmquant.schedules.neon.winograd.plan import method, methods, variants
from tvmquant.schedules.selection import KernelTable
from tvmquant.schedules.workload import Workload

pytestmark = needs_emulator
on_both = pytest.mark.parametrize("isa", ["neon", "neon_dotprod"])


def check(isa, kernels, totals, folder, seed=0):
    """``kernels`` are those without the addition."""
    program, wanted = Program(isa), {}
    for i, (kernel, total) in enumerate(zip(kernels, totals, strict=True)):
        *data, qinfo = make_data(kernel.workload, seed + i)
        total = replace(total, own_zero_point=int(qinfo[1]))
        form, numbers = total.encode("fma" in arm_device(isa).features)
        assert form == total.flavour
        shape = kernel.workload.out_shape
        other = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
        fused = kernel.with_residual(form)
        assert fused.workload == replace(kernel.workload, residual=form)
        assert fused.name != kernel.name and fused.label == kernel.label
        constants = fused.pack(*data[1:])
        numbers = np.concatenate([qinfo, numbers])
        number = program.kernel(fused, data[0], constants, numbers, other)
        wanted[number] = fused.name, with_sum(expected(kernel.workload, *data, qinfo), other, total)
    got = program.run(folder)
    for number, (name, values) in wanted.items():
        np.testing.assert_array_equal(got[number], values, err_msg=name)


@on_both
def test_steps(isa, tmp_path):
    """All flavours of both requantizations, channels that end within vectors."""
    kernels, totals = [], []
    for i, bits in enumerate([8, 4, 2, 1]):
        flavour = INTEGER_FORMS[i % 3]
        shape = {"x_bits": bits, "w_bits": bits, "requantize": flavour}
        workload = conv(1, 5, 7, 16, (40, 21, 3, 50)[i], (3, 3), padding=(1, 1, 1, 1), **shape)
        steps = sorted({c["step"] for c in DirectKernel(workload, isa).configs()})
        for step in steps[i % 2 :: 2]:
            kernels.append(DirectKernel(workload, isa, step))
            totals.append(make_sum((0, 0), INTEGER_FORMS[(i + len(kernels)) % 3], seed=i))
    check(isa, kernels, totals, tmp_path)


@st.composite
def layers(draw):
    if draw(st.booleans()):
        size = draw(st.integers(1, 9)), draw(st.integers(1, 40)), draw(st.integers(1, 50))
        workload = Workload("matmul", size[:2], size[:0:-1])
    else:
        kernel, step = draw(st.sampled_from([(1, 1), (3, 3)])), draw(st.integers(1, 2))
        pad = (kernel[0] // 2,) * 4
        channels = draw(st.integers(1, 40)), draw(st.integers(1, 70))
        workload = conv(draw(st.integers(1, 2)), 7, 9, *channels, kernel, (step, step), pad)
    bits = draw(st.sampled_from([8, 8, 4, 2, 1]))
    return replace(workload, x_bits=bits, w_bits=bits, requantize=draw(FLAVOURS))


@on_both
@settings(max_examples=6, deadline=None)
@given(layers(), FLAVOURS, MULTIPLIERS, st.integers(0, 99))
def test_what_the_rules_choose(isa, tmp_path_factory, workload, flavour, multipliers, seed):
    kernel = KernelTable(arm_device(isa))[workload]
    total = make_sum((0, 0), flavour, multipliers, seed)
    check(isa, [kernel], [total], tmp_path_factory.mktemp("any"), seed)


@on_both
def test_winograd(isa, tmp_path):
    kernels, totals = [], []
    for size, kind in methods(isa):
        if size == 3 or (isa == "neon_dotprod" and not kind.startswith("dot")):
            continue
        bits = 8 if kind == "long" else 2 if size < 4 else 1
        shape = conv(1, 7, 9, 18, 37, (3, 3), padding=(1, 1, 1, 1), w_bits=bits, x_bits=bits)
        plan = next(iter(variants(method(shape, size, kind))))
        kernels.append(NeonWinogradKernel(plan, isa))
        totals.append(make_sum((0, 0), INTEGER_FORMS[size % 3], seed=size))
    assert len(kernels) >= 4
    check(isa, kernels, totals, tmp_path)
