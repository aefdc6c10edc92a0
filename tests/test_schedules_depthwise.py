"""Integer depthwise kernels equal the NumPy reference bit for bit on every instruction set."""

from dataclasses import replace

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tvm import relax

from tvmquant import reference
from tvmquant.schedules.depthwise.packing import pack_weight
from tvmquant.schedules.depthwise.plan import make_plan
from tvmquant.schedules.selection import KernelTable
from tvmquant.schedules.workload import Workload
from tvmquant.targets.device import Device, get_device

HOST = replace(get_device("host"), num_cores=4)
DEVICES = {
    "host": HOST,
    "no_avx512vnni": HOST.without("avx512vnni"),
    "no_vnni": HOST.without("avx512vnni", "avxvnni"),
    "generic": get_device({"kind": "llvm", "num-cores": 4}),
}


def make_data(workload: Workload, rng: np.random.Generator) -> dict:
    taps = workload.w_shape[1] * workload.w_shape[2]
    channels, x_top, w_half = workload.w_shape[0], 1 << workload.x_bits, 1 << workload.w_bits - 1
    if workload.w_bits == 1:
        w = rng.integers(0, 2, workload.w_shape) * 2 - 1
    else:
        w = rng.integers(-w_half, w_half, workload.w_shape)
    size = channels if rng.integers(2) else 1
    multiplier = rng.uniform(0.1, 4, size) * 100 / np.sqrt(taps) / x_top / w_half
    return {
        "x": rng.integers(0, x_top, workload.x_shape).astype(np.uint8),
        "w": w.astype(np.int8),
        "bias": rng.integers(-3000, 3000, channels).astype(np.int32),
        "params": reference.make_requantize_params(multiplier, workload.requantize),
        "qinfo": rng.integers([0, 0, 0, 100], [x_top, 256, 100, 256]).astype(np.int32),
    }


def expected(workload: Workload, data: dict) -> np.ndarray:
    x_zero_point, zero_point, low, high = (int(v) for v in data["qinfo"])
    return reference.conv2d(
        data["x"],
        data["w"],
        data["bias"],
        data["params"],
        strides=workload.strides,
        padding=workload.padding,
        dilation=workload.dilation,
        groups=workload.groups,
        x_zero_point=x_zero_point,
        requantize_flavour=workload.requantize,
        out_zero_point=zero_point,
        out_min=low,
        out_max=high,
    )


def run(workload: Workload, device: Device, data: dict) -> np.ndarray:
    kernel = KernelTable(device)[workload]
    module = tvm.compile(kernel.prim_func(), target=device.target)
    packed = kernel.pack(data["w"], data["bias"], data["params"])
    arrays = [data["x"], *packed, data["qinfo"], np.zeros(workload.out_shape, workload.out_dtype)]
    arguments = [tvm.runtime.tensor(a) for a in arrays]
    module[kernel.name](*arguments)
    return arguments[-1].numpy()


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    channels = draw(st.sampled_from([3, 8, 16, 24, 33, 64, 80, 144]))
    multiplier = draw(st.sampled_from([1, 1, 1, 2]))
    kernel = draw(st.sampled_from([(3, 3), (3, 3), (5, 5), (1, 4), (4, 1), (2, 3), (7, 7)]))
    strides = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 3)]))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
    size = [draw(st.integers(max(1, span - 2), span + 9)) for span in spans]
    padding = draw(st.tuples(*[st.integers(0, 3)] * 4))
    for axis in (0, 1):
        short = spans[axis] - size[axis]
        if padding[axis] + padding[axis + 2] < short:
            padding = tuple(max(p, short) for p in padding)
    return Workload(
        "depthwise_conv2d",
        (draw(st.integers(1, 2)), *size, channels),
        (channels * multiplier, *kernel, 1),
        strides,
        padding,
        dilation,
        channels,
        draw(st.sampled_from([8, 8, 4, 2, 1])),
        draw(st.sampled_from([8, 8, 4, 2, 1])),
        draw(st.sampled_from(["float", "float", *reference.FLAVOURS])),
    )


def layer(channels: int, size: int, kernel: int, stride: int, **changes: object) -> Workload:
    pad = kernel // 2
    return Workload(
        "depthwise_conv2d",
        (1, size, size, channels),
        (channels, kernel, kernel, 1),
        (stride, stride),
        (pad,) * 4,
        (1, 1),
        channels,
        **changes,
    )


@pytest.mark.parametrize("name", DEVICES)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(workload=workloads(), seed=st.integers(0, 99))
@example(workload=layer(144, 9, 5, 2), seed=0)
@example(workload=layer(144, 31, 3, 1), seed=5)  # large enough for threads
@example(workload=layer(96, 8, 3, 1, requantize="fixed_point"), seed=1)
@example(workload=layer(32, 9, 3, 2, w_bits=4, requantize="power_of_two"), seed=2)
def test_equals_reference(name: str, workload: Workload, seed: int) -> None:
    data = make_data(workload, np.random.default_rng(seed))
    got = run(workload, DEVICES[name], data)
    np.testing.assert_array_equal(got, expected(workload, data))


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("flavour", reference.FLAVOURS)
def test_extreme_values(name: str, flavour: str) -> None:
    """Largest products, accumulators near the ends of int32, multipliers far beyond the clamp."""
    workload = layer(64, 6, 3, 1, requantize=flavour)
    data = make_data(workload, np.random.default_rng(3))
    data["x"][:] = 255
    data["w"][:] = np.where(np.arange(64) % 2, 127, -128).reshape(-1, 1, 1, 1)
    data["bias"][:] = np.resize([2**31 - 1, -(2**31), 0, 2**31 - 200_000], 64)
    multiplier = np.repeat([1.0, 40000.0, 2.0**-20, 2.0**-31], 16)
    data["params"] = reference.make_requantize_params(multiplier, flavour)
    got = run(workload, DEVICES[name], data)
    np.testing.assert_array_equal(got, expected(workload, data))


def test_called_from_relax() -> None:
    workload = layer(24, 7, 3, 1)
    data = make_data(workload, np.random.default_rng(4))
    kernel = KernelTable(HOST)[workload]
    packed = [*kernel.pack(data["w"], data["bias"], data["params"]), data["qinfo"]]
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(workload.x_shape, "uint8"))
    with builder.function("main", [x]):
        with builder.dataflow():
            function = builder.add_func(kernel.prim_func(), kernel.name)
            constants = [relax.const(a) for a in packed]
            result = relax.TensorType(workload.out_shape, "uint8")
            y = builder.emit_output(
                builder.emit(relax.call_tir(function, [x, *constants], out_ty=result))
            )
        builder.emit_func_output(y)
    built = tvm.compile(builder.finalize(), target=HOST.target)
    machine = relax.VirtualMachine(built, tvm.cpu())
    got = machine["main"](tvm.runtime.tensor(data["x"])).numpy()
    np.testing.assert_array_equal(got, expected(workload, data))


@pytest.mark.parametrize("bits", [4, 2, 1])
def test_constants_are_packed(bits: int) -> None:
    workload = layer(64, 8, 5, 1, w_bits=bits)
    plan = make_plan(workload, (64, 32, 16), 4, 1)
    packed = pack_weight(np.ones(workload.w_shape, np.int8), bits, plan)
    assert packed.nbytes == 64 * -(-25 * bits // 8)


def test_blocks_cover_all_channels() -> None:
    for channels in (1, 15, 16, 40, 144, 1000):
        plan = make_plan(layer(channels, 8, 3, 1), (64, 32, 16), 4, 4)
        covered = set()
        for block in range(plan.blocks):
            start = plan.block_start(block)
            covered |= set(range(start, min(start + plan.width, channels)))
        assert covered == set(range(channels))
