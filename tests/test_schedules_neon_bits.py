"""NEON kernels for single bits: counted or looked up, exact, and made of few instructions."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_tools import make_data
from neon_tools import PROCESSORS, arm_device, check, conv, inner_loop, needs_emulator

from tvmquant import reference
from tvmquant.schedules.neon import DirectKernel
from tvmquant.schedules.neon.bits import MOST_PAIRS, Count
from tvmquant.schedules.neon.lookup import Lookup
from tvmquant.schedules.selection import KernelTable
from tvmquant.schedules.space import ConfigError
from tvmquant.schedules.workload import Workload

on_both = pytest.mark.parametrize("isa", ["neon", "neon_dotprod"])

LAYER = conv(1, 14, 14, 64, 64, (3, 3), padding=(1, 1, 1, 1))
# Bits of weights and activations.
COUNTED = [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1)]
LOOKED_UP = [(1, 1), (1, 2), (1, 4)]


def with_bits(workload, bits, **more):
    return replace(workload, w_bits=bits[0], x_bits=bits[1], **more)


def kernels_of(workload, isa):
    """The kernels for single bits of a workload."""
    steps = {config["step"] for config in DirectKernel(workload, isa).configs()}
    return [DirectKernel(workload, isa, name) for name in sorted(steps & {"cnt", "tbl"})]


@needs_emulator
@on_both
def test_equals_reference(isa, tmp_path):
    shapes = [
        conv(2, 9, 7, 48, 20, (3, 2), (2, 1), (1, 0, 1, 2)),
        conv(1, 6, 7, 16, 20, (1, 1), (2, 2)),
        conv(1, 8, 9, 144, 33, (3, 3), padding=(2, 2, 2, 2), dilation=(1, 2)),
        conv(1, 7, 6, 8, 70, (3, 3), padding=(0, 1, 2, 1)),
        Workload("matmul", (3, 80), (21, 80)),
        Workload("matmul", (1, 2048), (8, 2048), requantize="none"),
    ]
    kernels = []
    for i, shape in enumerate(shapes):
        for bits in (COUNTED[i], COUNTED[(i + 1) % len(COUNTED)], LOOKED_UP[i % 3]):
            kernels += kernels_of(with_bits(shape, bits), isa)
    assert len(kernels) > 20
    check(isa, kernels, tmp_path)


@st.composite
def convolutions(draw):
    """Convolutions whose channels fill words of 8, 16, or neither."""
    dims = st.integers(1, 3)
    kernel = draw(st.tuples(dims, dims))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (1, 2), (2, 1)]))
    strides = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding = draw(st.tuples(*[st.integers(0, 2)] * 4))
    height, width = draw(st.tuples(st.integers(5, 9), st.integers(5, 9)))
    channels = draw(st.sampled_from([8, 12, 16, 24, 32, 40, 80, 128]))
    outputs = draw(st.integers(1, 40))
    shape = (draw(st.integers(1, 2)), height, width, channels, outputs, kernel)
    flavour = draw(st.sampled_from(reference.FLAVOURS))
    return conv(*shape, strides, padding, dilation=dilation, requantize=flavour)


@needs_emulator
@on_both
@given(convolutions(), st.sampled_from(COUNTED), st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_any_convolution(isa, tmp_path_factory, workload, bits, seed):
    workload = with_bits(workload, bits)
    kernels = kernels_of(workload, isa)
    channels = workload.x_shape[3]
    names = {kernel.plan.step.name for kernel in kernels}
    assert ("cnt" in names) == (channels % 16 == 0)
    assert ("tbl" in names) == (channels % 8 == 0 and workload.w_bits == 1)
    check(isa, [*kernels, DirectKernel(workload, isa)], tmp_path_factory.mktemp("any"), seed)


@needs_emulator
def test_the_longest_sums_that_are_proven(tmp_path):
    """One word more of channels, and the kernel is not offered."""
    kernels = []
    for name, step, bits in [
        *(("cnt", Count(x_bits, w_bits), (w_bits, x_bits)) for w_bits, x_bits in COUNTED),
        *(("tbl", Lookup(x_bits), (1, x_bits)) for _, x_bits in LOOKED_UP[1:]),
    ]:
        longest = max(k for k in range(0, 1 << 16, 16) if step.exact(k))
        layer = with_bits(Workload("matmul", (1, longest), (9, longest), requantize="none"), bits)
        kernels.append(DirectKernel(layer, "neon_dotprod", name))
        longer = replace(layer, x_shape=(1, longest + 16), w_shape=(9, longest + 16))
        assert name not in {c["step"] for c in DirectKernel(longer, "neon_dotprod").configs()}
    check("neon_dotprod", kernels, tmp_path, extreme=True)


@needs_emulator
@on_both
def test_sizes_of_the_tuner(isa, tmp_path):
    workload = with_bits(conv(1, 7, 9, 32, 40, (3, 3), padding=(1, 1, 1, 1)), (1, 2))
    kernel = DirectKernel(workload, isa)
    configs = kernel.configs()
    assert {"cnt", "tbl"} <= {config["step"] for config in configs}
    costs = [kernel.estimate(config) for config in configs]
    assert min(costs) > 0 and costs[0] <= 1.001 * min(costs)
    for step in ("cnt", "tbl"):
        some = [config for config in configs if config["step"] == step]
        check(isa, [kernel.with_config(config) for config in (some[1], some[-1])], tmp_path)
    odd = with_bits(conv(1, 6, 6, 12, 8, (3, 3)), (1, 2))
    with pytest.raises(ConfigError):
        DirectKernel(odd, isa).with_config(configs[0])


def test_counted_code_is_what_is_meant():
    kernel = DirectKernel(with_bits(LAYER, (1, 1)), "neon", "cnt")
    loop = [words[0] for words in inner_loop(kernel.prim_func(), "neon", "cnt")]
    assert loop.count("eor") == loop.count("cnt") == loop.count("uadalp") > 16
    rest = set(loop) - {"eor", "cnt", "uadalp"}
    assert rest <= {"dup", "ldr", "ldur", "ldp", "add", "subs", "b.ne"}


def test_looked_up_code_is_what_is_meant():
    """Two instructions for 64 products; nothing is copied or spilled."""
    kernel = DirectKernel(with_bits(LAYER, (1, 2)), "neon_dotprod", "tbl")
    loop = [words[0] for words in inner_loop(kernel.prim_func(), "neon_dotprod", "tbl")]
    assert loop.count("tbl") == loop.count("sadalp") >= 16
    assert loop.count("tbl") + loop.count("sadalp") > 0.7 * len(loop)
    assert not set(loop) & {"mov", "str", "stp", "dup"}


def chosen(isa, workload):
    return KernelTable(arm_device(isa))[workload].label.split()[:2]


def test_every_processor_takes_what_is_best_there():
    """A table look-up is slow before there were dot products."""
    strided = replace(LAYER, strides=(2, 2))
    for isa, expected in (("neon", "cnt"), ("neon_dotprod", "tbl"), ("neon_i8mm", "tbl")):
        for bits in ((1, 2), (1, 4)):
            assert chosen(isa, with_bits(strided, bits)) == ["direct", expected]
        assert chosen(isa, with_bits(strided, (1, 1))) == ["direct", "cnt"]
    for isa, expected in (("neon", "cnt"), ("neon_dotprod", "sdot"), ("neon_i8mm", "usmmla")):
        assert chosen(isa, with_bits(strided, (2, 2))) == ["direct", expected]
    assert chosen("neon", with_bits(LAYER, (1, 2))) == ["direct", "cnt"]
    assert chosen("neon_dotprod", with_bits(LAYER, (1, 4))) == ["direct", "tbl"]
    for isa in PROCESSORS:
        assert chosen(isa, with_bits(LAYER, (2, 2)))[0] == "winograd"


@pytest.mark.parametrize("isa", PROCESSORS)
def test_packed_weights_take_their_bits(isa):
    for bits in COUNTED:
        for kernel in kernels_of(with_bits(LAYER, bits), isa):
            _, w, bias, params, _ = make_data(kernel.workload)
            assert kernel.pack(w, bias, params)[0].nbytes == w.size * bits[0] // 8
            assert (kernel.expansion() is None) == kernel.plan.counts


def test_bits_are_counted_where_nothing_may_be_expanded():
    for bits in ((1, 2), (2, 2)):
        kernel = KernelTable(arm_device("neon_dotprod"), expand=False)[with_bits(LAYER, bits)]
        assert kernel.label.startswith("direct cnt") and kernel.expansion() is None


def test_no_more_planes_than_pay():
    for bits in ((2, 4), (4, 2), (8, 1), (1, 8)):
        steps = {c["step"] for c in DirectKernel(with_bits(LAYER, bits), "neon").configs()}
        assert np.prod(bits) > MOST_PAIRS and not steps & {"cnt", "tbl"}
