"""Kernels whose weights are widened at load time equal the reference, and pay where chosen."""

from dataclasses import replace

import numpy as np
import pytest
import tvm
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from kernel_tools import expected, make_data, run

from tvmquant.schedules.linear import DenseKernel
from tvmquant.schedules.linear.kernel import dense
from tvmquant.schedules.selection import KernelTable
from tvmquant.schedules.space import ConfigError
from tvmquant.schedules.widened import WidenedKernel
from tvmquant.schedules.widened.codes import make_widen, pack_codes
from tvmquant.schedules.widened.kernel import widen, widened
from tvmquant.schedules.workload import Workload
from tvmquant.targets import get_device

HOST = get_device()
WIDE = ("avx512vnni", "avx512f", "avx512bw", "avx512vl", "avx512vbmi", "avx512vpopcntdq")
DEVICES = {d.isa: d for d in (HOST, HOST.without(*WIDE), HOST.without(*WIDE, "avxvnni"))}
DEVICES = {isa: device for isa, device in DEVICES.items() if isa != "generic"}
if not DEVICES:
    pytest.skip("this processor has no AVX2", allow_module_level=True)
on_every_device = pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)


def conv(size, c, o, kernel=1, stride=1, **more):
    shapes = (1, size, size, c), (o, kernel, kernel, c)
    return Workload("conv2d", *shapes, (stride,) * 2, (kernel // 2,) * 4, (1, 1), **more)


def check(kernel, device, seed=0, extreme=False):
    data = make_data(kernel.workload, seed, extreme)
    got = run(kernel, device, *data)
    np.testing.assert_array_equal(got, expected(kernel.workload, *data))


@pytest.mark.parametrize("bits", [4, 2, 1])
@pytest.mark.parametrize("count", [4, 12, 64, 128, 132, 256, 1000])
def test_weights_survive_packing_and_widening(bits, count):
    rng = np.random.default_rng(count)
    w = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), count)
    w = (2 * rng.integers(0, 2, count) - 1 if bits == 1 else w).astype(np.int8)
    packed = pack_codes(w, bits)
    assert packed.nbytes < count * bits / 8 + 16
    func = make_widen("widen", count, bits)
    out = tvm.runtime.tensor(np.zeros(count, np.int8))
    built = tvm.compile(tvm.IRModule({"widen": func}), target=HOST.target)
    built["widen"](tvm.runtime.tensor(packed), out)
    np.testing.assert_array_equal(out.numpy(), w)


@on_every_device
@settings(max_examples=6, deadline=None)
@given(
    size=st.integers(3, 9),
    c=st.sampled_from([4, 8, 20, 33, 64]),
    o=st.sampled_from([3, 8, 24, 40, 100]),
    kernel=st.sampled_from([1, 3]),
    bits=st.sampled_from([(4, 8), (4, 4), (2, 2), (1, 8), (1, 1)]),
    seed=st.integers(0, 99),
)
@example(size=5, c=64, o=43, kernel=1, bits=(4, 8), seed=1)
@example(size=5, c=7, o=20, kernel=3, bits=(2, 8), seed=2)
def test_equals_reference(device, size, c, o, kernel, bits, seed):
    made = widen(conv(size, c, o, kernel, w_bits=bits[0], x_bits=bits[1]), device)
    assume(made is not None)
    check(made, device, seed, extreme=seed % 2)


@on_every_device
def test_matmul_equals_reference(device):
    for bits in (4, 2, 1):
        workload = Workload("matmul", (5, 68), (50, 68), w_bits=bits, requantize="none")
        check(widen(workload, device), device, bits, extreme=True)


def test_one_bit_has_no_zero_to_fill_a_step_up():
    device = next(iter(DEVICES.values()))
    assert widen(conv(5, 33, 8, w_bits=1), device) is None
    assert widen(conv(5, 33, 8, w_bits=2), device) is not None
    assert widen(conv(5, 32, 8), device) is None


def test_chosen_only_where_unpacking_is_expected_to_cost_more():
    thin, deep = conv(56, 64, 256, w_bits=4, x_bits=4), conv(14, 1024, 256, w_bits=4, x_bits=4)
    for isa, device in DEVICES.items():
        kernel = KernelTable(device)[thin]
        assert isinstance(kernel, WidenedKernel) == isa.endswith("vnni")
        # 512-bit vectors unpack faster than they read twice the bytes.
        assert isinstance(KernelTable(device)[deep], WidenedKernel) == (isa == "avx_vnni")
        if isa.endswith("vnni"):
            assert kernel.cycles < dense(thin, device).cycles
            # Without memory for wider weights the packed ones are used.
            assert isinstance(KernelTable(device, expand=False)[thin], DenseKernel)
        vector = Workload("matmul", (1, 512), (1000, 512), w_bits=4)
        assert isinstance(KernelTable(device)[vector], DenseKernel)
        assert widened(replace(thin, w_bits=8), device) is None


def test_profiles_say_where_fewer_bits_do_not_pay():
    thin = conv(56, 64, 256)
    for isa, device in DEVICES.items():
        table = KernelTable(device)
        assert table.note(thin) == ""
        assert table.note(replace(thin, w_bits=1, x_bits=1)) == ""
        note = table.note(replace(thin, w_bits=4, x_bits=4))
        wanted = "fewer bits do not pay here: 8-bit kernel" if isa.endswith("vnni") else ""
        assert note == wanted
        # Exact Winograd computes in 16 bits, whatever the weights.
        note = table.note(conv(56, 64, 64, 3, w_bits=4))
        assert note == "w4a8 is no faster than w8a8 on this processor (estimated)"


def test_measured_times_decide_what_a_profile_says():
    class Measured:
        def __init__(self, seconds):
            self.times = seconds

        def ranked(self, workload, device):
            return ()

        def seconds(self, workload, device):
            return self.times.get(workload.w_bits)

    device, layer = next(iter(DEVICES.values())), conv(56, 64, 64, 3, w_bits=4)
    slower, faster = Measured({4: 2e-3, 8: 1e-3}), Measured({4: 1e-3, 8: 2e-3})
    note = KernelTable(device, database=slower).note(layer)
    assert note == "w4a8 is no faster than w8a8 on this processor (measured)"
    assert KernelTable(device, database=faster).note(layer) == ""
    assert "estimated" in KernelTable(device, database=Measured({4: 1e-3})).note(layer)


def test_additions_are_part_of_the_inner_kernel():
    device = next(iter(DEVICES.values()))
    kernel = widen(conv(8, 64, 24, w_bits=4), device).with_residual("float")
    assert kernel.workload.residual == kernel.inner.workload.residual == "float"
    assert "add_float" in kernel.name


def test_kernels_are_values():
    device = next(iter(DEVICES.values()))
    workload = conv(8, 64, 24, w_bits=4)
    a, b = widen(workload, device), widen(workload, device)
    assert a == b and a.name == b.name != widen(replace(workload, w_bits=2), device).name
    assert a.prim_func() is a.prim_func() and a.expansion() is a.expansion()
    assert str(a.prim_func().attrs["global_symbol"]) == a.name
    _, w, bias, params, _ = make_data(workload)
    assert a.pack(w, bias, params)[0].nbytes == w.size // 2
    config = a.configs()[-1]
    assert a.with_config(config).inner == a.inner.with_config(config)
    with pytest.raises(ConfigError):
        a.with_config({"size": 3})
