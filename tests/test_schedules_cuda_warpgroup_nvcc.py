"""What nvcc makes of the kernels on products of four warps."""

import dataclasses
import re
import shutil

import pytest
from test_schedules_cuda import LAYERS
from test_schedules_cuda_nvcc import LINE, PAIR, RESNET, cubin, machine_code
from test_schedules_cuda_warpgroup import BITS, FLAVOURS, HOPPER, cover

from tvmquant.schedules.cuda.warpgroup import warpgroup_kernel
from tvmquant.schedules.cuda.warpgroup_plan import moved_registers, warpgroup_plans
from tvmquant.schedules.workload import Workload

pytestmark = pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
slow = pytest.mark.slow
# The largest tile: 128 sums a thread.
LARGE = {
    "block_m": 256,
    "block_n": 128,
    "block_k": 128,
    "warp_m": 256,
    "warp_n": 64,
    "stages": 4,
    "producers": 0,
    "source": "registers",
}


def check(kernel, folder):
    """Compile: nothing is spilled, and products wait for nothing but what was meant."""
    path, told = cubin(kernel, folder)
    assert "0 bytes spill stores, 0 bytes spill loads" in told, told
    # ptxas says when it makes products wait for each other.
    assert "serialized" not in told and "C75" not in told, told
    return path


def highest(code):
    """The last register that is named."""
    return max(map(int, re.findall(r"\bR(\d+)\b", code)), default=0)


def products(code):
    return [line for line in code.splitlines() if "IGMMA" in line]


@pytest.mark.parametrize(
    "w_bits, source",
    [
        pytest.param(8, "shared", marks=slow),
        pytest.param(8, "registers", marks=slow),
        (4, "registers"),
    ],
)
def test_products_follow_each_other_beside_the_copies(w_bits, source, tmp_path):
    layer = dataclasses.replace(RESNET, w_bits=w_bits)
    kernel = warpgroup_kernel(layer, HOPPER).with_config({**LARGE, "source": source})
    code = machine_code(check(kernel, tmp_path))
    found = products(code)
    assert len(found) == 4
    assert all("IGMMA.64x256x32.S8.U8" in line for line in found)
    # Rows from registers are a register before the descriptor of the columns.
    rows = [re.search(r"IGMMA\S* R\d+, (R\d+, )?gdesc", line)[1] for line in found]
    assert all(rows) if source == "registers" else not any(rows)
    assert "LDGSTS.E.BYPASS.128" in code and LINE in code
    # Waiting for all products happens once, behind the loop.
    assert code.count("WARPGROUP.DEPBAR.LE gsb0, 0x0") == 1


@pytest.mark.parametrize("w_bits", [pytest.param(8, marks=slow), 4])
def test_producers_copy_and_the_others_only_multiply(w_bits, tmp_path):
    layer = dataclasses.replace(RESNET, w_bits=w_bits)
    sizes = {"source": "shared" if w_bits == 8 else "registers", "producers": 1}
    kernel = warpgroup_kernel(layer, HOPPER).with_config({**LARGE, **sizes})
    code = machine_code(check(kernel, tmp_path))
    # Sums and weights together are more than each thread can have.
    moved = moved_registers(layer, kernel.plan) if w_bits == 4 else ()
    given = re.findall(r"USETMAXREG\.\w+\.CTAPOOL (?:UP0, )?(0x\w+)", code)
    assert [int(number, 16) for number in given] == list(moved)
    if moved:
        # What producers run, until they wait for the others and from where all store: they have
        # no more registers.
        own, rest = code.split("USETMAXREG.DEALLOC")[1].split("USETMAXREG.TRY_ALLOC")
        assert highest(own) < moved[0] and highest(rest.rpartition("BAR.SYNC")[2]) < moved[0]
        assert moved[0] <= highest(rest) < moved[1]
    assert len(products(code)) == 4
    # Weights come as bulk copies, and warps wait for each other at barriers in shared memory.
    assert "UBLKCP" in code and "SYNCS.PHASECHK" in code and "LDGSTS.E.BYPASS.128" in code
    first, last = (f(code.index(line) for line in products(code)) for f in (min, max))
    assert "LDGSTS" not in code[first:last] and "BAR.SYNC" not in code[first:last]


def test_wider_outputs_are_stored_in_pairs(tmp_path):
    layer = dataclasses.replace(RESNET, requantize="dequantize")
    code = machine_code(check(warpgroup_kernel(layer, HOPPER), tmp_path))
    assert products(code) and PAIR in code


@slow
@pytest.mark.parametrize("form", ["", "fixed_point"])
@pytest.mark.parametrize("name", LAYERS)
def test_every_form_of_layer_compiles(name, form, tmp_path):
    kernel = warpgroup_kernel(LAYERS[name], HOPPER)
    check(kernel.with_residual(form) if form else kernel, tmp_path)


@slow
@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("w_bits, x_bits", BITS)
def test_every_flavour_compiles_without_spills(w_bits, x_bits, flavour, tmp_path):
    layer = dataclasses.replace(RESNET, w_bits=w_bits, x_bits=x_bits, requantize=flavour)
    check(warpgroup_kernel(layer, HOPPER), tmp_path)


@slow
@pytest.mark.parametrize("w_bits", [8, 4, 2, 1])
def test_every_kind_of_tile_compiles_without_spills(w_bits, tmp_path):
    kernel = warpgroup_kernel(dataclasses.replace(RESNET, w_bits=w_bits), HOPPER)
    for config in cover(kernel):
        check(kernel.with_config(config), tmp_path)


@pytest.mark.parametrize("source", ["shared", "registers"])
def test_the_widest_product_of_the_most_threads_compiles(source, tmp_path):
    # ptxas wants all registers of a product before any are moved between warpgroups.
    layer = Workload("matmul", (8192, 8192), (8192, 8192))
    kernel = warpgroup_kernel(layer, HOPPER)
    plans = (p for p in warpgroup_plans(layer, HOPPER) if p.source == source and p.producers)
    plan = max(plans, key=lambda p: (p.threads >= 512, p.warp_m, p.stages))
    assert plan.threads == 512
    kernel = dataclasses.replace(kernel, plan=plan)
    assert re.search(r"int BAND = (?!1;)", kernel.launch.source)
    check(kernel, tmp_path)
