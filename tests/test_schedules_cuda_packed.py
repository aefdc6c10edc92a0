"""Activations that another kernel packs to nibbles or bits, in an emulator of the GPU."""

from dataclasses import replace

import numpy as np
import pytest
from cuda_tools import aligned, emulated, run_kernel
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernel_tools import expected, make_data
from test_schedules_cuda import FLAVOURS, LAYERS, conv
from test_schedules_cuda_shapes import SMALL, windows

from tvmquant.schedules.cuda.candidates import choose
from tvmquant.schedules.cuda.kernel import tensor_core_kernel
from tvmquant.schedules.cuda.packed import layout_of
from tvmquant.schedules.workload import Workload
from tvmquant.targets.cuda import arch_of

BIG = Workload("matmul", (4096, 4096), (4096, 4096), x_bits=1, w_bits=1)


def packed_kernel(workload, arch, product, choice):
    """A packed kernel of a product, or none."""
    kernel = tensor_core_kernel(workload, arch_of(arch))
    found = [c for c in kernel.configs() if c["packed"] and c["product"] == product]
    return kernel.with_config(found[choice % len(found)]) if found else None


@st.composite
def layers(draw):
    """Workload, architecture and product."""
    arch, product, bits = draw(
        st.sampled_from(
            [
                ("sm_75", "U4S4", [(4, 4), (4, 2)]),
                ("sm_75", "BITS_XOR", [(1, 1)]),
                ("sm_80", "U4S4", [(4, 4), (2, 4), (1, 1)]),
                ("sm_80", "BITS_XOR", [(1, 1)]),
                ("sm_80", "BITS_AND", [(1, 1)]),
                ("sm_90", "BITS_AND", [(1, 1)]),
                ("sm_90", "U8S8", [(8, 8), (4, 8), (2, 4), (1, 8)]),
            ]
        )
    )
    w_bits, x_bits = draw(st.sampled_from(bits))
    odd = product == "U8S8"  # where words can be read nothing is packed
    if draw(st.integers(0, 2)) == 0:
        rows, depth, outputs = (draw(st.integers(1, n)) for n in (20, 400, 60))
        workload = Workload("matmul", (rows, depth), (outputs, depth))
    else:
        groups = draw(st.integers(1, 2))
        inner = draw(st.sampled_from([1, 2, 3, 5, 7, 11] if odd else [5, 16, 24, 33, 64, 100]))
        shape = (draw(SMALL), draw(st.integers(5, 8)), draw(st.integers(5, 8)), inner * groups)
        workload = conv(shape, draw(st.integers(1, 24)) * groups, *draw(windows()), groups=groups)
    assume(min(workload.out_shape) > 0)
    flavour = draw(st.sampled_from(FLAVOURS))
    return replace(workload, x_bits=x_bits, w_bits=w_bits, requantize=flavour), arch, product


@settings(max_examples=6, deadline=None)
@given(layers(), st.integers(0, 10**6), st.integers(0, 99))
def test_layers_of_any_shape(tmp_path_factory, layer, choice, seed):
    kernel = packed_kernel(*layer, choice)
    assume(kernel is not None)
    data = make_data(kernel.workload, seed, extreme=seed % 2 == 1)
    got = run_kernel(kernel, tmp_path_factory.getbasetemp(), *data, reverse=seed % 2 == 0)
    np.testing.assert_array_equal(got, expected(kernel.workload, *data))


# Neighbouring pixels become one, as many as strides step over: of bits only if no tap is left over.
@pytest.mark.parametrize(
    "kernel, stride, channels, bits, fold",
    [
        (7, 2, 3, 8, 2),
        (11, 4, 3, 8, 4),
        (3, 2, 3, 8, 2),
        (3, 1, 3, 8, 1),
        (3, 3, 3, 8, 1),
        (2, 2, 30, 1, 2),
        (3, 2, 30, 1, 1),
        (3, 2, 9, 4, 2),
    ],
)
def test_pixels_are_folded(kernel, stride, channels, bits, fold, tmp_path):
    workload = conv((2, 13, 12, channels), 12, (kernel,) * 2, (stride,) * 2, (1, 3, 2, 0))
    workload = replace(workload, x_bits=bits, w_bits=bits)
    product = {8: "U8S8", 4: "U4S4", 1: "BITS_AND"}[bits]
    kernel = packed_kernel(workload, "sm_80", product, 3)
    assert layout_of(workload, kernel.plan).fold == fold
    data = make_data(workload, 7)
    got = run_kernel(kernel, tmp_path, *data)
    np.testing.assert_array_equal(got, expected(workload, *data))


@pytest.mark.parametrize("zero_point", [0, 1])
@pytest.mark.parametrize("arch, product", [("sm_80", "BITS_XOR"), ("sm_90", "BITS_AND")])
def test_padding_adds_only_the_channels_that_are_there(arch, product, zero_point, tmp_path):
    workload = replace(LAYERS["3x3"], x_shape=(1, 4, 5, 40), w_shape=(24, 3, 3, 40))
    workload = replace(workload, x_bits=1, w_bits=1, requantize="none")
    kernel = packed_kernel(workload, arch, product, 0)
    *data, qinfo = make_data(workload, 5)
    qinfo[0] = zero_point
    got = run_kernel(kernel, tmp_path, *data, qinfo)
    np.testing.assert_array_equal(got, expected(workload, *data, qinfo))


@pytest.mark.parametrize(
    "product, bits, channels, size",
    [("BITS_AND", 1, 70, 12), ("U4S4", 4, 21, 12), ("U4S4", 4, 64, 32), ("U8S8", 8, 3, 4)],
)
def test_words_hold_the_channels_of_a_pixel(product, bits, channels, size, tmp_path):
    workload = Workload("matmul", (9, channels), (16, channels), x_bits=bits, w_bits=bits)
    kernel = packed_kernel(workload, "sm_80", product, 0)
    assert layout_of(workload, kernel.plan).size == size
    (_, shape, _), *_ = kernel.scratch
    random = np.random.default_rng(1)
    x = random.integers(0, 2**bits, workload.x_shape).astype(np.uint8)
    packed, qinfo = aligned(np.full(shape, 0xA5, np.uint8)), np.ones(4, np.int32)
    emulated(kernel.launches[0], tmp_path)(aligned(x), aligned(qinfo), packed)
    assert not packed[-16:].any() and packed.size == 9 * size + 16
    # Channel 4 p + b of a word is in part p of byte b.
    parts = 8 // bits
    codes = np.zeros((9, size * parts), np.uint8)
    codes[:, :channels] = x
    codes = codes.reshape(9, size // 4, parts, 4) << (np.arange(parts) * bits)[:, None]
    meant = np.bitwise_or.reduce(codes, axis=2).astype(np.uint8)
    np.testing.assert_array_equal(packed[:-16], meant.reshape(-1))


def test_packing_is_chosen_where_it_pays():
    arch = arch_of("sm_90")
    deep = replace(conv((32, 28, 28, 256), 256, (3, 3)), x_bits=1, w_bits=1)
    assert choose(BIG, arch).packed and choose(deep, arch).packed
    # One block of columns, one tap: packed once or while it is read is the same.
    thin = Workload("matmul", (64, 256), (16, 256), x_bits=1, w_bits=1)
    assert not choose(thin, arch).packed
    # Bytes that can be read in words stay where they are.
    assert not any(c["packed"] for c in tensor_core_kernel(LAYERS["3x3"], arch).configs())
    both = {c["packed"] for c in tensor_core_kernel(thin, arch).configs()}
    assert both == {True, False}
