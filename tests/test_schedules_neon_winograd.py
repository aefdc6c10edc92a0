"""Winograd kernels for NEON: what they consist of, and, emulated, what they compute."""

from dataclasses import replace

import numpy as np
import pytest
from kernel_tools import expected, make_data
from neon_tools import Program, arm_device, check, conv, inner_loop, needs_emulator

from tvmquant import reference
from tvmquant.schedules.neon import DirectKernel, NeonWinogradKernel
from tvmquant.schedules.neon.winograd.kernel import winograd
from tvmquant.schedules.neon.winograd.plan import method, methods, variants
from tvmquant.schedules.selection import KernelTable
from tvmquant.schedules.space import ConfigError
from tvmquant.targets import get_device


def layer(n, h, w, c, o, padding=(1, 1, 1, 1), **more):
    return conv(n, h, w, c, o, (3, 3), padding=padding, **more)


def make_kernel(workload, size, kind, **more):
    plan = method(workload, size, kind)
    if plan is None:
        return None
    best = min(variants(plan), key=lambda p: p.cost)
    return NeonWinogradKernel(replace(best, **more), isa_of(kind))


def isa_of(kind):
    return "neon_dotprod" if kind.startswith("dot") else "neon"


WIDTHS = {
    ("half", 2): (2, 4),
    ("half", 3): (2, 2),
    ("half", 4): (1, 1),
    ("byte", 2): (4, 4),
    ("byte", 3): (2, 2),
    ("byte", 4): (1, 1),
    ("dot", 2): (2, 4),
    ("dot", 3): (2, 2),
    ("dot", 4): (2, 1),
    ("dot32", 2): (4, 4),
    ("dot32", 3): (1, 2),
    ("dot32", 4): (2, 1),
}


@needs_emulator
@pytest.mark.parametrize("isa", ["neon", "neon_dotprod"])
def test_every_method_equals_reference(isa, tmp_path):
    kernels = []
    which = [method for method in methods("neon_dotprod") if isa_of(method[1]) == isa]
    for i, (size, kind) in enumerate(which):
        w_bits, x_bits = WIDTHS.get((kind, size), (8, 8))
        shape = layer(2, 9, 14, 37, 43, (0, 1, 2, 1), w_bits=w_bits, x_bits=x_bits)
        workload = replace(shape, requantize=reference.FLAVOURS[i % 5])
        kernels.append(make_kernel(workload, size, kind))
    small = layer(1, 5, 30, 3, 9, (0, 0, 0, 0), w_bits=1, x_bits=1, requantize="none")
    if isa == "neon":
        kernels += [make_kernel(small, 3, "half"), make_kernel(layer(3, 1, 1, 1, 1), 4, "long")]
    else:
        tiny = layer(3, 1, 1, 1, 1, w_bits=1, x_bits=2)
        kernels += [make_kernel(small, 4, "dot32"), make_kernel(tiny, 2, "dot")]
    check(isa, kernels, tmp_path)


@needs_emulator
def test_blocks_and_chunks_of_dot_products(tmp_path):
    workload = layer(1, 11, 13, 120, 24, w_bits=2, x_bits=4)
    chunked = make_kernel(workload, 2, "dot")
    assert chunked.plan.chunks > 1
    blocks = make_kernel(layer(1, 19, 21, 16, 40, w_bits=2, x_bits=2), 3, "dot", rows=3, block=9)
    assert blocks.plan.blocks > 1 and blocks.plan.rest == 0
    wide = replace(workload, w_bits=4, requantize="none")
    wide = make_kernel(wide, 2, "dot32", rows=5, block=10)
    check("neon_dotprod", [chunked, blocks, wide], tmp_path, seed=4)


@needs_emulator
def test_blocks_and_chunks(tmp_path):
    workload = layer(1, 11, 13, 40, 24, w_bits=2, x_bits=2)
    chunked = make_kernel(workload, 4, "half")
    assert chunked.plan.chunks > 1
    deep = make_kernel(replace(workload, x_bits=4, w_bits=4, requantize="dequantize"), 3, "half")
    assert deep.plan.chunks > 1
    blocks = make_kernel(layer(1, 19, 21, 16, 40), 4, "long", rows=3, vectors=2, block=9)
    assert blocks.plan.blocks > 1 and blocks.plan.rest == 0
    check("neon", [chunked, deep, blocks], tmp_path, seed=3)


@needs_emulator
@pytest.mark.parametrize("kind", ["byte", "half", "long", "dot"])
def test_outputs_at_the_proven_bound(kind, tmp_path):
    """Every weight and activation at its limit, with as many channels as the proof allows."""
    program, wanted = Program(isa_of(kind)), {}
    for size in (2, 3, 4):
        bits = 8 if kind == "long" else 3 - size // 2
        deepest = 4200 if kind == "long" else 400

        def one(channels, size=size, bits=bits):
            shape = layer(4, size + 1, size + 1, channels, 8, w_bits=bits, x_bits=bits)
            plan = method(replace(shape, requantize="none"), size, kind)
            return plan if plan and plan.chunks == 1 else None

        channels = max(c for c in range(1, deepest) if one(c))
        assert one(channels + 1) is None
        # Registers of dot products hold half as many channels as vectors in memory.
        vectors = 2 if kind == "dot" else 1
        kernel = NeonWinogradKernel(replace(one(channels), rows=2, vectors=vectors), isa_of(kind))
        x, w, bias, params, _ = make_data(kernel.workload)
        high, low = 2**bits - 1, -(2 ** (bits - 1))
        rng = np.random.default_rng(size)
        x[:] = np.array([0, high, high, high])[:, None, None, None]
        x[3] = rng.choice([0, high], x[3].shape)
        values = [-1, 1] if bits == 1 else [low, -low - 1]
        w[:4] = np.array([values[0], values[1], values[0], values[1]])[:, None, None, None]
        w[4:] = rng.choice(values, w[4:].shape)
        w[4] = np.where(x[3, 0, 0, :] > 0, values[0], values[1])
        for zero_point in (0, high):
            data = (x, w, bias, params, np.array([zero_point, 0, 0, 255], np.int32))
            number = program.kernel(kernel, x, kernel.pack(w, bias, params), data[-1])
            wanted[number] = expected(kernel.workload, *data)
    got = program.run(tmp_path)
    for number, values in wanted.items():
        np.testing.assert_array_equal(got[number], values)


def test_what_is_not_proven_is_refused():
    deep = layer(1, 8, 8, 1024, 64)
    assert method(deep, 4, "long") is None and method(deep, 3, "long") is not None
    assert method(replace(deep, max_abs_sum=1 << 18), 4, "long") is not None
    assert all(method(deep, size, "half") is None for size in (2, 3, 4))
    narrow = layer(1, 8, 8, 303, 64, w_bits=2, x_bits=2)
    assert method(narrow, 3, "half").chunks == 1
    assert method(layer(1, 8, 8, 320, 64, w_bits=2, x_bits=2), 3, "half").chunks == 2
    bounded = replace(narrow, x_shape=(1, 8, 8, 320), w_shape=(64, 3, 3, 320), max_abs_sum=4096)
    assert method(bounded, 3, "half").chunks == 1


@needs_emulator
@pytest.mark.parametrize("kind", ["byte", "dot", "dot32"])
def test_bytes_at_their_limits(kind, tmp_path):
    """For every position the input and the filter that make its operands largest."""
    shape = layer(50, 5, 5, 9, 50, (0, 0, 0, 0), w_bits=2, x_bits=2, requantize="none")
    kernel = make_kernel(shape, 3, kind)
    x, w, bias, params, qinfo = make_data(kernel.workload)
    b = kernel.plan.algorithm.rows.input_matrix
    g = np.array(kernel.plan.algorithm.rows.filter_matrix)
    for position in range(25):
        i, j = divmod(position, 5)
        for sign, at in ((1, position), (-1, 25 + position)):
            x[at] = np.where(sign * np.outer(b[i], b[j]) > 0, 3, 0)[..., None]
            w[at] = np.where(sign * np.outer(g[i], g[j]) > 0, 1, -2)[..., None]
    program = Program(isa_of(kind))
    number = program.kernel(kernel, x, kernel.pack(w, bias, params), qinfo)
    got = program.run(tmp_path)[number]
    np.testing.assert_array_equal(got, expected(kernel.workload, x, w, bias, params, qinfo))


def test_bytes_multiply_at_full_rate():
    workload = layer(1, 14, 14, 64, 64, w_bits=2, x_bits=2)
    kernel = KernelTable(arm_device("neon"))[workload]
    assert kernel.plan.operands.name == "byte"
    loop = inner_loop(kernel.prim_func(), "neon", "smlal")
    found = [words for words in loop if words[0] in ("smlal", "smlal2")]
    assert all(words[1].endswith(".8h") for words in found)
    assert not {words[0] for words in loop} & {"mov", "mul", "smull", "str", "stp"}
    assert len(found) > 0.7 * len(loop)


def test_dot_products_multiply_by_lanes():
    """Layers of up to four bits have Winograd's on processors with dot products, too."""
    for bits, name in ((2, "dot"), (4, "dot32")):
        workload = layer(1, 14, 14, 256, 64, w_bits=bits, x_bits=bits)
        kernel = KernelTable(arm_device("neon_dotprod"))[workload]
        assert kernel.plan.operands.name == name
        loop = inner_loop(kernel.prim_func(), "neon_dotprod", "sdot")
        found = [words for words in loop if words[0] == "sdot"]
        assert all(".4b[" in words[-1] for words in found)
        assert not {words[0] for words in loop} & {"dup", "str", "stp"}
        # The first turn, which also clears the sums.
        assert len(found) > 0.55 * len(loop)


@pytest.mark.parametrize("kind, step", [("long", "smlal"), ("half", "mla")])
def test_code_multiplies_by_lanes(kind, step):
    bits = 8 if kind == "long" else 2
    kernel = make_kernel(layer(1, 14, 14, 64, 64, w_bits=bits, x_bits=bits), 3, kind)
    loop = inner_loop(kernel.prim_func(), "neon", step)
    found = [words for words in loop if words[0].startswith(step)]
    assert all(".h[" in words[-1] for words in found)
    assert not {words[0] for words in loop} & {"dup", "ld1", "ld1r", "str", "stp"}
    assert len(found) > 0.8 * len(loop)


def test_the_rule():
    device = arm_device("neon")
    shape = layer(1, 28, 28, 64, 64)
    kernel = KernelTable(device)[shape]
    assert isinstance(kernel, NeonWinogradKernel) and kernel.plan.algorithm.size == 4
    # Dot products of 16 bytes are cheaper than multiplications of four words.
    assert isinstance(KernelTable(arm_device("neon_dotprod"))[shape], DirectKernel)
    for other in (
        replace(shape, strides=(2, 2)),
        replace(shape, dilation=(1, 2)),
        replace(shape, groups=2, w_shape=(64, 3, 3, 32)),
        layer(1, 28, 28, 1, 1),
    ):
        assert winograd(other, device) is None
        assert isinstance(KernelTable(device)[other], DirectKernel)
    assert winograd(shape, get_device()) is None


def test_the_tuner_may_change_the_sizes():
    kernel = winograd(layer(1, 13, 13, 24, 40, x_bits=2, w_bits=2), arm_device("neon"))
    configs = kernel.configs()
    assert kernel.with_config(configs[0]) == kernel
    assert len({tuple(config.values()) for config in configs}) == len(configs) > 20
    costs = [kernel.estimate(config) for config in configs]
    assert costs == sorted(costs) and costs[0] > 0
    for change in (
        {"size": 5},
        {"sums": "int64"},
        {"sums": "dot"},
        {"block": 7, "rows": 2},
        {"rows": 0},
    ):
        with pytest.raises(ConfigError):
            kernel.with_config({**configs[0], **change})
