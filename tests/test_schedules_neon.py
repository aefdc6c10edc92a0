"""Direct NEON kernels: the instructions they consist of, and, emulated, what they compute."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernel_tools import expected, make_data
from neon_tools import (
    PROCESSORS,
    Program,
    arm_device,
    check,
    conv,
    inner_loop,
    needs_emulator,
)

from tvmquant import reference
from tvmquant.schedules.neon import DirectKernel
from tvmquant.schedules.neon.direct import direct
from tvmquant.schedules.neon.short import Byte, Half
from tvmquant.schedules.selection import KernelTable
from tvmquant.schedules.space import ConfigError
from tvmquant.schedules.workload import Workload
from tvmquant.targets import get_device

on_every_set = pytest.mark.parametrize("isa", PROCESSORS)


LAYER = conv(1, 14, 14, 64, 64, (3, 3), padding=(1, 1, 1, 1))


def every_step(workload, isa):
    """Kernels of a workload with each of the instruction set's steps."""
    names = {config["step"] for config in DirectKernel(workload, isa).configs()}
    return [DirectKernel(workload, isa, name) for name in sorted(names)]


SHAPES = [
    conv(1, 9, 9, 3, 32, (3, 3), (2, 2), (0, 0, 1, 1)),
    conv(1, 11, 13, 3, 10, (7, 7), (2, 2), (3, 3, 3, 3)),
    conv(2, 7, 5, 24, 21, (2, 4), (1, 2), (1, 2, 0, 1), dilation=(2, 1)),
    conv(1, 8, 9, 33, 12, (3, 2), padding=(1, 1, 1, 1), dilation=(1, 2)),
    conv(2, 6, 6, 24, 15, (3, 3), groups=3),
    conv(1, 5, 5, 40, 36, (1, 1), (2, 2)),
    conv(2, 12, 1, 5, 8, (3, 1), (2, 1), (1, 0, 1, 0)),
    conv(1, 7, 7, 64, 100, (1, 1)),
    Workload("matmul", (1, 300), (70, 300)),
    Workload("matmul", (13, 37), (5, 37)),
    Workload("matmul", (4, 3), (4, 3)),
]
BITS = [(8, 8), (8, 4), (4, 8), (4, 4), (2, 8), (2, 2), (1, 8), (1, 1)]


@needs_emulator
@on_every_set
def test_equals_reference(isa, tmp_path):
    kernels = []
    for i, shape in enumerate(SHAPES):
        w_bits, x_bits = BITS[3 * i % len(BITS)]
        flavour = reference.FLAVOURS[i % len(reference.FLAVOURS)]
        workload = replace(shape, w_bits=w_bits, x_bits=x_bits, requantize=flavour)
        kernels += every_step(workload, isa)
    if isa == "neon":
        kernels.append(DirectKernel(conv(1, 9, 9, 24, 20, (3, 3)), isa, compact=True))
    check(isa, kernels, tmp_path)


@needs_emulator
@on_every_set
def test_extreme_values(isa, tmp_path):
    kernels = []
    for w_bits, x_bits in BITS:
        workload = Workload("matmul", (7, 1248), (24, 1248), w_bits=w_bits, x_bits=x_bits)
        kernels += every_step(replace(workload, requantize="none"), isa)
    check(isa, kernels, tmp_path, extreme=True)


@needs_emulator
@on_every_set
def test_sizes_of_the_tuner(isa, tmp_path):
    workload = conv(1, 9, 11, 20, 40, (3, 3), padding=(1, 1, 1, 1), w_bits=4, x_bits=4)
    kernel = direct(workload, arm_device(isa))
    configs = kernel.configs()
    assert kernel.with_config(configs[0]).label == kernel.label
    assert len({tuple(config.values()) for config in configs}) == len(configs) > 20
    costs = [kernel.estimate(config) for config in configs]
    assert min(costs) > 0 and costs[0] <= 1.001 * min(costs)
    for config in (configs[len(configs) // 2], configs[-1]):
        check(isa, [kernel.with_config(config)], tmp_path)
    for change in ({"step": "vpdpbusd"}, {"rows": 10}, {"vectors": 99}, {"columns": 0}):
        with pytest.raises(ConfigError):
            kernel.with_config({**configs[0], **change})


@needs_emulator
@on_every_set
@pytest.mark.parametrize("flavour", ["float", "fixed_point", "power_of_two"])
def test_multipliers_beyond_every_range(isa, flavour, tmp_path):
    workload = Workload("matmul", (4, 20), (24, 20), requantize=flavour)
    kernel = direct(workload, arm_device(isa))
    x, w, bias, _, qinfo = make_data(workload, 0)
    bias[:4] = [2**31 - 1, -(2**31), 2**31 - 30000, -(2**31) + 5]
    high = 2.0**29 if flavour == "fixed_point" else 1e30  # its shift must stay positive
    params = reference.make_requantize_params(np.resize([0, 1e-30, high, 2.0**-31, 1], 24), flavour)
    program = Program(isa)
    number = program.kernel(kernel, x, kernel.pack(w, bias, params), qinfo)
    got = program.run(tmp_path)[number]
    np.testing.assert_array_equal(got, expected(workload, x, w, bias, params, qinfo))


@pytest.mark.parametrize(
    "isa, bits, step, wanted",
    [
        ("neon", 8, "smlal", ".h["),
        ("neon", 8, "sadalp", ".8h"),
        ("neon", 4, "mla", ".h["),
        ("neon_dotprod", 8, "sdot", ".4b["),
        ("neon_dotprod", 2, "sdot", ".4b["),
        ("neon_i8mm", 8, "usmmla", ".16b"),
    ],
)
def test_code_is_what_is_meant(isa, bits, step, wanted):
    kernel = DirectKernel(replace(LAYER, w_bits=bits, x_bits=bits), isa, step)
    loop = inner_loop(kernel.prim_func(), isa, step)
    found = [words for words in loop if words[0].startswith(step)]
    assert all(wanted in words[-1] for words in found)
    others = {words[0] for words in loop}
    if step == "sadalp":
        for name in ("smull", "smlsl2"):
            assert len([words for words in loop if words[0] == name]) == len(found)
        assert len(loop) < 3.8 * len(found) and not others & {"mov", "str", "stp", "dup"}
        return
    # Nothing is broadcast, loaded by lanes or spilled, and most instructions multiply.
    assert not others & {"dup", "ld1", "ld1r", "mul", "smull", "str", "stp"}
    assert len(found) > 0.6 * len(loop) > 15


def test_the_profile_says_where_fewer_bits_do_not_pay():
    strided = replace(LAYER, strides=(2, 2))
    for isa, pay in (("neon", {2, 1}), ("neon_dotprod", {1})):
        table = KernelTable(arm_device(isa))
        for layer in (LAYER, strided) if isa == "neon" else (strided,):
            notes = {b: table.note(replace(layer, w_bits=b, x_bits=b)) for b in (4, 2, 1)}
            assert {bits for bits, note in notes.items() if not note} == pay
            assert all("estimated" in note for bits, note in notes.items() if bits not in pay)


def test_the_rule_takes_every_dense_layer_of_arm():
    for isa in PROCESSORS:
        assert isinstance(
            KernelTable(arm_device(isa))[replace(LAYER, strides=(2, 2))], DirectKernel
        )
    assert direct(LAYER, get_device()) is None
    assert direct(LAYER, get_device({"kind": "llvm", "mtriple": "x86_64-linux-gnu"})) is None


@on_every_set
@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_packed_weights_take_their_bits(isa, bits):
    for kernel in every_step(replace(LAYER, w_bits=bits, x_bits=min(bits, 4)), isa):
        _, w, bias, params, _ = make_data(kernel.workload)
        packed = kernel.pack(w, bias, params)
        assert packed[0].nbytes == w.size * bits // 8
        widened = kernel.plan.step.w_dtype == "int16"
        expands = widened or (bits < 8 and not kernel.plan.counts)
        assert (kernel.expansion() is not None) == expands


def test_weights_are_never_expanded_where_that_is_forbidden():
    shape = conv(1, 8, 8, 24, 16, (3, 3))
    device = arm_device("neon")
    assert KernelTable(device)[shape].expansion() is not None
    kernel = KernelTable(device, expand=False)[shape]
    assert isinstance(kernel, DirectKernel) and kernel.expansion() is None


def test_bytes_are_broadcast_once_for_many_channels():
    kernel = DirectKernel(replace(LAYER, w_bits=2, x_bits=2), "neon", "mla8")
    loop = inner_loop(kernel.prim_func(), "neon", "mla")
    found = [words for words in loop if words[0] == "mla"]
    assert found and all(words[-1].endswith(".16b") for words in found)
    assert sum(words[0] == "dup" for words in loop) * 4 <= len(found)
    assert not {words[0] for words in loop} & {"str", "stp", "mul", "ld1r"}


@pytest.mark.parametrize("make, largest", [(Half, 15), (Byte, 7)])
@given(st.integers(1, 8), st.integers(1, 4), st.data())
@settings(max_examples=15, deadline=None)
def test_short_sums_keep_to_their_range(make, largest, x_bits, w_bits, data):
    """The proof of the short sums, tried at its ends."""
    step, bound = make(x_bits, w_bits), 1 << largest
    most = 1 << (w_bits - 1)
    ends = [(2**x_bits - 1) * w for w in ((-1, 1) if w_bits == 1 else (-most, most - 1))]
    assume(step.limit)
    values = data.draw(st.integers(1, step.limit))
    for end in ends:
        assert -bound <= end * values + step.start(values) < bound
    assert -bound <= step.start(values) < bound


def test_kernels_are_values():
    a, b = (DirectKernel(LAYER, "neon") for _ in range(2))
    assert a == b and hash(a) == hash(b) and a.name == b.name
    assert a.prim_func() is a.prim_func()
    attrs = a.prim_func().attrs
    assert bool(attrs["tvmquant.scheduled"]) and int(attrs["op_pattern"]) == 8
