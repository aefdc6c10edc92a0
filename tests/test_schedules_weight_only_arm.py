"""Weight-only kernels on emulated ARM processors."""

import numpy as np
import pytest
from neon_tools import PROCESSORS, Program, arm_device, needs_emulator
from weight_only_tools import WeightOnlyData, weight_only_workload

from tvmquant.schedules.selection import KernelTable
from tvmquant.schedules.weight_only import IntegerKernel

CASES = [
    weight_only_workload(rows, depth, outputs, bits, group_size, zero_points)
    for bits in (8, 4, 2)
    for rows, depth, outputs, group_size, zero_points in (
        (1, 96, 40, 32, False),
        (3, 70, 21, 16, True),
        (2, 40, 5, 0, True),
    )
]


@needs_emulator
@pytest.mark.parametrize("isa", PROCESSORS)
def test_equals_the_reference(isa, tmp_path):
    program, wanted = Program(isa), {}
    for seed, workload in enumerate(CASES):
        data = WeightOnlyData.of(workload, seed)
        kernel = KernelTable(arm_device(isa))[workload]
        # sdot has come with Armv8.2.
        assert isinstance(kernel, IntegerKernel) == (isa != "neon")
        constants = kernel.pack(data.w, data.bias, data.params)
        out = program.tensor(np.zeros(workload.out_shape, np.float32))
        tensors = [*map(program.tensor, (data.x, *constants)), out]
        program.call(kernel.prim_func().with_attr("global_symbol", f"case{seed}"), tensors)
        wanted[out] = (workload, *data.expected())
    got = program.run(tmp_path)
    for number, (workload, want, bound) in wanted.items():
        assert (np.abs(got[number].astype(np.float64) - want) <= bound).all(), workload
