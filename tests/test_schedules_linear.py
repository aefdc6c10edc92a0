"""Dense kernels against the NumPy reference, on every instruction set that this CPU executes."""

from dataclasses import replace

import numpy as np
import pytest
import tvm
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_tools import expected, make_data, run
from tvm import relax

from tvmquant import reference
from tvmquant.schedules.linear import DenseKernel, cannot_saturate
from tvmquant.schedules.linear.kernel import dense
from tvmquant.schedules.linear.tiling import Sizes
from tvmquant.schedules.workload import Workload
from tvmquant.targets import Device, get_device

HOST = get_device()


def devices():
    """The host and ever lesser processors, the last without any vector intrinsics."""
    found = {HOST.isa: HOST}
    for features in (
        ("avx512vnni",),
        ("avx512vnni", "avxvnni"),
        ("avx512vnni", "avxvnni", "avx512f", "avx2", "fma", "f16c", "avx"),
    ):
        if set(features) & HOST.features:
            lesser = HOST.without(*features)
            found.setdefault(lesser.isa if "avx" not in features else "sse", lesser)
    found["portable"] = Device("portable", HOST.target_json, frozenset())
    return found


DEVICES = devices()
on_every_device = pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)


def conv(n, h, w, c, o, kernel, strides=(1, 1), padding=(0, 0, 0, 0), **more):
    dilation, groups = more.pop("dilation", (1, 1)), more.pop("groups", 1)
    shape = (o, *kernel, c // groups)
    return Workload("conv2d", (n, h, w, c), shape, strides, padding, dilation, groups, **more)


def check(workload, device, seed=0, extreme=False):
    data = make_data(workload, seed, extreme)
    kernel = dense(workload, device)
    got = run(kernel, device, *data)
    np.testing.assert_array_equal(got, expected(workload, *data), err_msg=kernel.name)
    return kernel


CHANNELS = st.sampled_from([1, 2, 3, 4, 5, 8, 12, 24, 33, 40])
OUTPUTS = st.sampled_from([1, 3, 4, 6, 8, 10, 16, 21, 24, 31, 40, 100])
PAIR = st.tuples(st.integers(1, 2), st.integers(1, 2))
BITS = st.sampled_from([8, 8, 4, 2, 1])
FLAVOUR = st.sampled_from(reference.FLAVOURS)


@st.composite
def convolutions(draw):
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 4)))
    dilation, strides = draw(PAIR), draw(PAIR)
    padding = tuple(draw(st.integers(0, 2)) for _ in range(4))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
    h = draw(st.integers(max(1, reach[0] - padding[0] - padding[2]), 10))
    w = draw(st.integers(max(1, reach[1] - padding[1] - padding[3]), 18))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    scale = 1 if groups == 1 else groups
    return conv(
        draw(st.integers(1, 2)),
        h,
        w,
        draw(CHANNELS) * scale,
        draw(OUTPUTS) * scale,
        kernel,
        strides,
        padding,
        dilation=dilation,
        groups=groups,
        x_bits=draw(st.sampled_from([8, 8, 4, 1])),
        w_bits=draw(BITS),
        requantize=draw(FLAVOUR),
    )


@st.composite
def matmuls(draw):
    m, k, o = draw(st.integers(1, 30)), draw(st.integers(1, 70)), draw(OUTPUTS)
    bits, flavour = draw(BITS), draw(FLAVOUR)
    return Workload("matmul", (m, k), (o, k), w_bits=bits, requantize=flavour)


@on_every_device
@settings(max_examples=15, deadline=None)
@given(workload=convolutions(), seed=st.integers(0, 99))
@example(workload=conv(1, 9, 9, 3, 32, (3, 3), (2, 2), (0, 0, 1, 1)), seed=1)
@example(workload=conv(1, 7, 7, 3, 10, (3, 3), padding=(1, 1, 1, 1), w_bits=1), seed=2)
@example(workload=conv(1, 6, 6, 6, 9, (3, 3), groups=3, w_bits=1), seed=3)
@example(workload=conv(2, 12, 1, 5, 8, (3, 1), (2, 1), (1, 0, 1, 0)), seed=4)
@example(workload=conv(1, 5, 5, 33, 40, (1, 1), (2, 2), requantize="fixed_point"), seed=5)
def test_conv2d_equals_reference(device, workload, seed):
    check(workload, device, seed)


@on_every_device
@settings(max_examples=10, deadline=None)
@given(workload=matmuls(), seed=st.integers(0, 99))
@example(workload=Workload("matmul", (1, 64), (1000, 64)), seed=1)
@example(workload=Workload("matmul", (5, 3), (4, 3), requantize="none"), seed=2)
@example(workload=Workload("matmul", (4, 37), (70, 37), w_bits=1), seed=3)
def test_matmul_equals_reference(device, workload, seed):
    check(workload, device, seed)


@on_every_device
@pytest.mark.parametrize("flavour", ["float", "none"])
@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_extreme_values_never_saturate_an_intermediate(device, bits, flavour):
    workload = Workload("matmul", (7, 320), (48, 320), w_bits=bits, requantize=flavour)
    check(workload, device, seed=bits, extreme=True)
    check(replace(workload, x_shape=(3, 1240), w_shape=(24, 1240), x_bits=4), device, bits, True)


@on_every_device
def test_sums_wrap_like_the_reference(device):
    data = list(make_data(Workload("matmul", (3, 8), (16, 8), requantize="none"), 0))
    workload = Workload("matmul", (3, 8), (16, 8), requantize="none")
    data[2] = np.full(16, 2**31 - 10, np.int32)
    kernel = dense(workload, device)
    got = run(kernel, device, *data)
    np.testing.assert_array_equal(got, expected(workload, *data))


@on_every_device
@pytest.mark.parametrize("flavour", ["float", "fixed_point", "power_of_two"])
def test_multipliers_beyond_every_range(device, flavour):
    workload = Workload("matmul", (4, 20), (24, 20), requantize=flavour)
    x, w, bias, _, qinfo = make_data(workload, 0)
    high = 2.0**29 if flavour == "fixed_point" else 1e30  # its shift must stay positive
    multipliers = np.resize([0.0, 1e-30, high, 2.0**-31, 1.0], 24)
    params = reference.make_requantize_params(multipliers, flavour)
    kernel = dense(workload, device)
    got = run(kernel, device, x, w, bias, params, qinfo)
    np.testing.assert_array_equal(got, expected(workload, x, w, bias, params, qinfo))


@on_every_device
@pytest.mark.parametrize(
    "workload",
    [
        conv(1, 28, 28, 40, 136, (3, 3), padding=(1, 1, 1, 1), requantize="power_of_two"),
        conv(1, 7, 7, 256, 320, (1, 1), w_bits=4),
        conv(2, 33, 31, 16, 96, (2, 3), (1, 2), (1, 0, 0, 1), w_bits=8, no_saturation=True),
    ],
    ids=["pixels", "channels", "images"],
)
def test_layers_that_use_threads(device, workload):
    assert check(workload, device).plan.tiling.parallel


def test_instruction_set_follows_device_and_weights():
    def name(isa, **more):
        return DenseKernel(Workload("matmul", (4, 64), (16, 64), **more), isa).plan.isa.name

    assert name("avx512_vnni") == "avx512_vnni"
    assert name("avx_vnni", w_bits=2) == "avx_vnni"
    assert name("avx2") == "avx2_maddwd"
    assert name("avx2", no_saturation=True) == "avx2_maddubs"
    assert name("avx2", w_bits=4) == "avx2_maddubs"
    assert name("generic") == "generic"
    # Scaled sub-byte weights would leave int32 in so deep a reduction.
    deep = Workload("matmul", (1, 70000), (16, 70000), w_bits=4)
    assert DenseKernel(deep, "avx512_vnni").plan.isa.name == "generic"


def test_vnni_code_is_vnni():
    for isa, device in DEVICES.items():
        if isa in ("avx512_vnni", "avx_vnni"):
            kernel = dense(conv(1, 8, 8, 64, 64, (1, 1)), device)
            module = tvm.compile(tvm.IRModule({"k": kernel.prim_func()}), target=device.target)
            assembly = module.mod.inspect_source("asm")
            dots = [line for line in assembly.splitlines() if "vpdpbusd" in line]
            wide = "zmm" if isa == "avx512_vnni" else "ymm"
            assert dots and all(wide in line for line in dots)


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
@pytest.mark.parametrize("outputs", [24, 40, 96, 1000])
@pytest.mark.parametrize("isa", ["avx512_vnni", "avx_vnni", "avx2", "sse", "generic"])
def test_packed_weights_take_their_bits(bits, outputs, isa):
    workload = conv(1, 8, 8, 64, outputs, (3, 3), w_bits=bits)
    _, w, bias, params, _ = make_data(workload, 0)
    packed = DenseKernel(workload, isa).pack(w, bias, params)
    assert packed[0].nbytes == w.size * bits // 8
    others = sum(array.nbytes for array in packed[1:])
    assert others <= 8 * outputs + 4 * w[0].size + 32


def test_heavy_weights_are_fetched_ahead():
    def share(**sizes):
        workload = conv(1, 7, 7, 512, 256, (1, 1), **sizes)
        return DenseKernel(workload, "avx512_vnni", Sizes(1, 7, 2, 7)).plan.prefetch_share

    assert share() == -(-128 // 7)  # a step of two vectors, in seven tiles
    assert share(w_bits=4) == share()
    assert share(w_bits=1) == 0  # 16 KiB
    row = Workload("matmul", (1, 512), (1000, 512))
    assert DenseKernel(row, "avx512_vnni").plan.prefetch_share == 0
    source = str(dense(conv(1, 14, 14, 256, 512, (1, 1)), HOST).prim_func().script())
    assert "prefetch" in source


def test_kernels_are_values():
    workload = conv(1, 8, 8, 16, 24, (1, 1))
    a, b = (dense(workload, HOST) for _ in range(2))
    assert a == b and hash(a) == hash(b) and a.name == b.name
    assert a.prim_func() is a.prim_func()
    tvm.ir.assert_structural_equal(a.prim_func(), b.prim_func())
    assert dense(replace(workload, w_bits=4), HOST).name != a.name
    attrs = a.prim_func().attrs
    assert bool(attrs["tvmquant.scheduled"]) and int(attrs["op_pattern"]) == 8


def test_cannot_saturate():
    assert cannot_saturate(np.full((4, 1, 1, 8), 64, np.int8))
    assert not cannot_saturate(np.full((4, 1, 1, 8), 65, np.int8))
    assert cannot_saturate(np.array([[127, -128, 1, 127, -1, -127]], np.int8))
    assert not cannot_saturate(np.array([[0, -100, -29]], np.int8))
    assert cannot_saturate(np.full((2, 8), 127, np.int8), x_bits=4)
    across_columns = np.zeros((1, 1, 2, 3), np.int8)
    across_columns[0, 0, 0, 2] = across_columns[0, 0, 1, 0] = 100
    assert not cannot_saturate(across_columns)


def test_call_tir():
    workload = conv(1, 6, 6, 8, 20, (3, 3), padding=(1, 1, 1, 1))
    data = make_data(workload, 5)
    x, w, bias, params, qinfo = data
    kernel = dense(workload, HOST)
    builder = relax.BlockBuilder()
    function = builder.add_func(kernel.prim_func(), kernel.name)
    var = relax.Var("x", relax.TensorType(list(workload.x_shape), "uint8"))
    constants = [relax.const(a) for a in (*kernel.pack(w, bias, params), qinfo)]
    with builder.function("main", [var]):
        with builder.dataflow():
            kind = relax.TensorType(list(workload.out_shape), workload.out_dtype)
            out = builder.emit_output(relax.call_tir(function, [var, *constants], kind))
        builder.emit_func_output(out)
    machine = relax.VirtualMachine(tvm.compile(builder.get(), target=HOST.target), tvm.cpu())
    got = machine["main"](tvm.runtime.tensor(x)).numpy()
    np.testing.assert_array_equal(got, expected(workload, *data))
