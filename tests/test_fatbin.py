"""One model with machine code for several architectures."""

import json
import shutil
import struct
import subprocess
from dataclasses import replace
from importlib.resources import files

import pytest
import tvm
from click.testing import CliRunner
from test_schedules_cuda_nvcc import find_tool

import tvmquant
from tvmquant.cli import main
from tvmquant.errors import BundleError, TargetError
from tvmquant.runtime.gpu import Gpu, runs_on, why_no_gpu
from tvmquant.schedules.selection import KernelTable
from tvmquant.schedules.workload import Workload
from tvmquant.targets import get_device
from tvmquant.targets.cuda import ARCHES, common_arch, nearest_arch

DEMO = files("tvmquant") / "assets" / "demo.onnx"
MAGIC = b"\x50\xed\x55\xba"  # of a fatbin
needs_nvcc = pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:no calibration data")


def cli(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fatbin") / "model"
    shape = ("--input-shape", "image=1,1,28,28")
    given = ("--target", "cuda-sm_80", "--fatbin", "sm_80,sm_90", "--bits", "w4a4")
    result = cli("compile", DEMO, "-o", folder, *given, *shape)
    assert result.exit_code == 0, result.output
    assert "for cuda-sm_80 (sm_80 sm_90)" in result.output
    return folder


@needs_nvcc
def test_the_library_has_machine_code_for_each(bundle, tmp_path):
    library = (bundle / "model.so").read_bytes()
    fatbin = tmp_path / "kernels.fatbin"
    start = library.index(MAGIC)
    _, header, size = struct.unpack_from("<HHQ", library, start + 4)
    fatbin.write_bytes(library[start : start + header + size])
    command = [find_tool("cuobjdump"), "--list-elf", fatbin]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [line.split(".")[-2] for line in told.splitlines()] == ["sm_80", "sm_90"]


@needs_nvcc
def test_the_manifest_says_so(bundle):
    told = cli("inspect", bundle)
    assert "code for   sm_80 sm_90" in told.output
    manifest = json.loads(cli("inspect", bundle, "--json").output)
    assert manifest["cuda_archs"] == ["sm_80", "sm_90"] and manifest["target"] == "cuda-sm_80"
    kernels = {layer["kernel"].split()[0] for layer in manifest["layers"] if layer["macs"]}
    # sm_80 alone would multiply nibbles, which sm_90 only emulates; sm_90 alone by four warps.
    assert "u8s8" in kernels and not {"u4s4", "wgmma"} & kernels
    refused = cli("export", bundle, "-o", bundle.with_name("program"))
    assert refused.exit_code == 2 and "for processors only" in refused.stderr
    if not tvm.cuda(0).exist:
        with pytest.raises(BundleError, match=r"\(sm_80 and sm_90\), this machine has none"):
            tvmquant.load(bundle)


def test_kernels_are_those_that_all_of_them_have():
    device = get_device("cuda-sm_90").with_fatbin(["sm_80", "sm_90"])
    assert device.cuda_archs == device.compiled_archs == ("sm_80", "sm_90")
    assert device.cuda.name == "sm_80" and device.name == "cuda-sm_80"
    assert device.cuda.products == ("U8S8", "BITS_AND") and not device.cuda.wgmma
    conv = Workload("conv2d", (1, 8, 8, 64), (64, 3, 3, 64), (1, 1), (1, 1, 1, 1), (1, 1))
    kernel = KernelTable(device)[replace(conv, x_bits=4, w_bits=4)]
    assert kernel.plan.product == "U8S8"
    kernel = KernelTable(device)[replace(conv, x_bits=1, w_bits=1)]
    assert kernel.plan.product == "BITS_AND"
    assert get_device("cuda-sm_90").with_fatbin(["sm_90"]).compiled_archs == ("sm_90a",)


@pytest.mark.parametrize("pair", [(75, 80), (75, 90), (80, 86), (80, 100), (86, 90), (90, 120)])
def test_what_two_architectures_have_in_common(pair):
    first, second = (ARCHES[number] for number in pair)
    common = common_arch([second, first])
    assert set(common.products) == set(first.products) & set(second.products)
    assert common.sm == first.sm and common.shared_bytes <= second.shared_bytes
    assert common_arch([first]) == first


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--target", "cuda-sm_80", "--fatbin", "sm_12"), "unknown CUDA architecture 'sm_12'"),
        (("--target", "cuda-sm_80", "--fatbin", " , "), "write the architectures as sm_80,sm_90"),
        (("--fatbin", "sm_80,sm_90"), "not for host: give a target such as cuda-sm_75"),
        (("--target", "rpi4", "--fatbin", "sm_80"), "not for rpi4"),
    ],
)
def test_mistakes_cost_one_line(arguments, words, tmp_path):
    result = cli("compile", DEMO, "-o", tmp_path / "m", *arguments)
    assert result.exit_code == 2 and words in result.stderr
    assert result.stderr.count("\n") == 1 and not (tmp_path / "m").exists()


def test_the_interface_refuses_as_well():
    with pytest.raises(TargetError, match="a fatbin is for NVIDIA GPUs"):
        tvmquant.compile(DEMO, fatbin=["sm_80"])


@pytest.mark.parametrize("there, best", [(86, 86), (87, 86), (103, 100), (121, 120), (90, 90)])
def test_the_nearest_architecture_runs_there(there, best):
    assert nearest_arch(f"sm_{there}").sm == best


def test_a_gpu_that_is_too_old_is_refused():
    with pytest.raises(TargetError, match="unknown CUDA architecture 'sm_70'"):
        nearest_arch("sm_70")


@pytest.mark.parametrize(
    "made, here, runs",
    [
        ("sm_80", "sm_80", True),
        ("sm_80", "sm_86", True),
        ("sm_86", "sm_80", False),
        ("sm_80", "sm_90", False),
        ("sm_90a", "sm_90", True),
        ("sm_90a", "sm_100", False),
        ("sm_100", "sm_103", True),
        ("sm_100", "sm_120", False),
    ],
)
def test_where_machine_code_runs(made, here, runs):
    assert runs_on(made, here) == runs
    told = why_no_gpu([made], Gpu("GPU", here))
    assert (told is None) == runs
    assert why_no_gpu([made, here], Gpu("GPU", here)) is None
    if not runs:
        assert f"target cuda-{here}" in told
