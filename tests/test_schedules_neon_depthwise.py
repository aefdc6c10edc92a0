"""NEON depthwise kernels: proofs of their chains, their code, and, emulated, what they compute."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_tools import make_data
from neon_tools import PROCESSORS, arm_device, check, inner_loop, needs_emulator
from test_schedules_addition import make_sum
from test_schedules_neon_addition import check as check_addition

from tvmquant import reference
from tvmquant.schedules.depthwise import DepthwiseKernel
from tvmquant.schedules.linear.addition import INTEGER_FORMS
from tvmquant.schedules.neon import DepthwiseNeonKernel
from tvmquant.schedules.neon.depthwise.chains import Form
from tvmquant.schedules.neon.depthwise.kernel import depthwise
from tvmquant.schedules.selection import KernelTable
from tvmquant.schedules.space import ConfigError
from tvmquant.schedules.workload import Workload
from tvmquant.targets import get_device

on_every_set = pytest.mark.parametrize("isa", PROCESSORS)
BITS = [(8, 8), (8, 4), (4, 8), (4, 4), (2, 8), (2, 2), (1, 8), (1, 1)]


def layer(h, w, channels, kernel, strides=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), **more):
    images = more.pop("images", 1)
    x_shape, w_shape = (images, h, w, channels), (channels, *kernel, 1)
    return Workload(
        "depthwise_conv2d", x_shape, w_shape, strides, padding, dilation, channels, **more
    )


LAYER = layer(14, 14, 32, (3, 3), padding=(1, 1, 1, 1))
SHAPES = [
    LAYER,
    layer(15, 16, 16, (3, 3), (2, 2), (0, 0, 1, 1)),
    layer(7, 7, 40, (5, 5), padding=(2, 2, 2, 2)),
    layer(14, 13, 24, (5, 5), (2, 2), (1, 2, 2, 1), images=2),
    layer(9, 8, 17, (2, 4), (1, 2), (1, 2, 0, 1)),
    layer(9, 10, 33, (3, 3), (2, 1), (2, 2, 2, 2), (2, 2)),
    layer(11, 6, 16, (4, 3), (3, 1), (0, 3, 1, 0), (1, 3)),
    layer(1, 1, 20, (3, 3), padding=(1, 1, 1, 1)),
    layer(6, 5, 19, (1, 1)),
]


def every_step(workload, isa):
    """Kernels of a workload with each of the instruction set's steps."""
    kernel = depthwise(workload, arm_device(isa))
    steps = sorted({config["step"] for config in kernel.configs()})
    return [replace(kernel, step_name=name) for name in steps]


@st.composite
def layers(draw):
    """Any layer that the rule takes."""
    kernel, strides, dilation = (
        tuple(draw(st.integers(1, most)) for _ in "hw") for most in (5, 3, 3)
    )
    padding = tuple(draw(st.integers(0, 4)) for _ in range(4))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
    pads = (padding[0] + padding[2], padding[1] + padding[3])
    size = [draw(st.integers(max(1, r - p), 13)) for r, p in zip(reach, pads)]
    w_bits, x_bits = draw(st.sampled_from(BITS))
    flavour = draw(st.sampled_from(reference.FLAVOURS))
    more = {"w_bits": w_bits, "x_bits": x_bits, "requantize": flavour}
    more["images"] = draw(st.integers(1, 2))
    return layer(*size, draw(st.integers(16, 50)), kernel, strides, padding, dilation, **more)


@needs_emulator
@on_every_set
def test_equals_reference(isa, tmp_path):
    kernels = []
    for i, shape in enumerate(SHAPES):
        for w_bits, x_bits in ((8, 8), BITS[1 + i % 7]):
            flavour = reference.FLAVOURS[(i + w_bits) % len(reference.FLAVOURS)]
            workload = replace(shape, w_bits=w_bits, x_bits=x_bits, requantize=flavour)
            # What the sets have in common is the same code.
            kernels.append(every_step(workload, isa)[0 if isa == "neon_dotprod" else -1])
    check(isa, kernels, tmp_path)


@needs_emulator
@settings(max_examples=5, deadline=None)
@given(
    st.lists(layers(), min_size=4, max_size=4),
    st.integers(0, 99),
    st.sampled_from(sorted(PROCESSORS)),
)
def test_any_layer(workloads, seed, isa):
    with tempfile.TemporaryDirectory() as folder:
        kernels = [kernel for workload in workloads for kernel in every_step(workload, isa)]
        check(isa, kernels, Path(folder), seed)


@needs_emulator
@pytest.mark.parametrize("isa", ["neon", "neon_dotprod"])
def test_residual_additions(isa, tmp_path):
    kernels, totals = [], []
    for i, flavour in enumerate(INTEGER_FORMS):
        shape = replace(SHAPES[2], requantize=flavour, w_bits=8 >> i)
        kernels.append(depthwise(shape, arm_device(isa)))
        totals.append(make_sum((0, 0), INTEGER_FORMS[i - 1], seed=i))
    check_addition(isa, kernels, totals, tmp_path)


@needs_emulator
@pytest.mark.parametrize("isa", ["neon", "neon_i8mm"])
def test_extreme_values(isa, tmp_path):
    kernels = []
    for w_bits, x_bits in BITS:
        more = {"w_bits": w_bits, "x_bits": x_bits, "requantize": "none"}
        for size, dilation in ((5, (1, 1)), (3, (2, 2)))[: 1 + (isa == "neon")]:
            kernels += every_step(layer(7, 7, 48, (size,) * 2, dilation=dilation, **more), isa)[-1:]
    check(isa, kernels, tmp_path, extreme=True)


@needs_emulator
@pytest.mark.parametrize("isa", ["neon", "neon_dotprod"])
def test_sizes_of_the_tuner(isa, tmp_path):
    kernel = depthwise(layer(11, 9, 24, (3, 3), padding=(1, 1, 1, 1)), arm_device(isa))
    configs = kernel.configs()
    assert kernel.with_config(configs[0]).label == kernel.label
    assert kernel.estimate(configs[0]) == kernel.cycles > 0
    assert len({tuple(config.values()) for config in configs}) == len(configs) > 8
    for config in (configs[len(configs) // 2], configs[-1]):
        check(isa, [kernel.with_config(config)], tmp_path)
    for change in ({"step": "cnt"}, {"columns": 10}, {"band": 12}, {"columns": 0}, {"rows": 1}):
        with pytest.raises(ConfigError):
            kernel.with_config({**configs[0], **change})


@pytest.mark.parametrize("w_bits, x_bits", BITS)
@pytest.mark.parametrize("shape", [LAYER, layer(9, 9, 16, (5, 5)), SHAPES[4], SHAPES[5]])
def test_chains_fit_int16_and_cover_every_tap_once(shape, w_bits, x_bits):
    form = Form(replace(shape, w_bits=w_bits, x_bits=x_bits))
    most = 1 << (w_bits - 1)
    weights = (-1, 1) if w_bits == 1 else (-most, most - 1)
    for colour in range(form.colours):
        chains = form.chains(colour)
        assert sorted(tap for chain in chains for tap in chain.taps) == form.taps
        for chain in chains:
            stored = (-128, 127) if x_bits == 8 else (0, 2**x_bits - 1)
            products = sorted(x * w for x in stored for w in weights)
            ends = [(products[0], products[-1])[::sign] for sign in chain.signs]
            for end in (0, 1):
                total = sum(sign * pair[end] for sign, pair in zip(chain.signs, ends))
                assert -(1 << 15) <= chain.start + total < 1 << 15


def test_long_chains_where_few_bits_or_small_weights_allow_them():
    def lengths(**more):
        return [len(chain.taps) for chain in Form(replace(LAYER, **more)).chains(0)]

    assert lengths() == [2, 2, 2, 2, 1]
    assert lengths(max_abs_sum=255) == lengths(w_bits=4) == lengths(x_bits=4) == [9]
    assert lengths(w_bits=4, x_bits=4) == [9]
    assert not any(chain.start for chain in Form(LAYER).chains(1))
    # Two taps of one colour need a start.
    assert any(chain.start for chain in Form(replace(LAYER, dilation=(2, 2))).chains(0))


@pytest.mark.parametrize("bits, widenings", [(8, 20), (4, 4)])
def test_code_is_what_is_meant(bits, widenings):
    kernel = depthwise(replace(LAYER, w_bits=bits, x_bits=bits), arm_device("neon"))
    loop = inner_loop(kernel.prim_func(), "neon", "sml")
    names = [words[0] for words in loop]
    columns = kernel.plan.sizes.columns
    multiplications = [name for name in names if name.startswith(("smull", "smlal", "smlsl"))]
    assert len(multiplications) == 18 * columns
    found = [name for name in names if name.startswith(("saddw", "ssubw", "saddl", "ssubl"))]
    assert len(found) == widenings * columns
    # Nothing is widened, multiplied or added apart.
    assert not {"sxtl", "sshll", "sshll2", "mul", "mla"} & set(names)


def test_dot_products_where_there_are():
    steps = {isa: depthwise(LAYER, arm_device(isa)).step for isa in PROCESSORS}
    assert steps == {"neon": "smlal", "neon_dotprod": "sdot", "neon_i8mm": "usdot"}
    kernel = depthwise(LAYER, arm_device("neon_dotprod"))
    loop = inner_loop(kernel.prim_func(), "neon_dotprod", "sdot")
    names = [words[0] for words in loop]
    # Three columns of the kernel, four quads of channels, 2 x 2 pixels.
    assert names.count("sdot") == 3 * 4 * 4
    copies = inner_loop(kernel.prim_func(), "neon_dotprod", "st4")
    assert {"zip1", "zip2", "uzp1"}.isdisjoint(words[0] for words in copies)


def test_the_profile_says_where_fewer_bits_do_not_pay():
    few = replace(LAYER, w_bits=4, x_bits=4)
    assert KernelTable(arm_device("neon")).note(few) == ""
    assert "no faster" in KernelTable(arm_device("neon_i8mm")).note(few)


def test_the_rule_and_who_takes_the_rest():
    for isa in PROCESSORS:
        table = KernelTable(arm_device(isa))
        assert isinstance(table[LAYER], DepthwiseNeonKernel)
        assert isinstance(table[layer(8, 8, 12, (3, 3))], DepthwiseKernel)
        twice = replace(LAYER, w_shape=(64, 3, 3, 1))
        assert isinstance(table[twice], DepthwiseKernel)
    assert depthwise(LAYER, get_device()) is None


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_packed_weights_take_their_bits(bits):
    kernel = depthwise(replace(LAYER, w_bits=bits), arm_device("neon"))
    _, w, bias, params, _ = make_data(kernel.workload)
    assert kernel.pack(w, bias, params)[0].nbytes == 32 * -(-9 * bits // 8)


def test_kernels_are_values():
    a, b = (depthwise(LAYER, arm_device("neon")) for _ in range(2))
    assert a == b and hash(a) == hash(b) and a.name == b.name
    assert a.prim_func() is a.prim_func()
