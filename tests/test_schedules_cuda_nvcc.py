"""What nvcc makes of the kernels: the instruction that was meant, and no spills."""

import dataclasses
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from cuda_tools import launches_of
from test_schedules_cuda import LAYERS, conv

from tvmquant.schedules.cuda.kernel import tensor_core_kernel
from tvmquant.schedules.cuda.plain import DepthwiseKernel
from tvmquant.schedules.workload import Workload
from tvmquant.targets.cuda import ARCHES, arch_of

pytestmark = pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
RESNET = conv((8, 28, 28, 128), 128, (3, 3))


def entry(launch, name):
    """A launch as a kernel of this name."""
    types = re.search(rf"void {launch.name}\((.*?)\) \{{", launch.source)[1].split(", ")[:-1]
    names = ", ".join(t.split("*")[1] for t in types)
    bounds = f"{launch.threads}, {launch.resident}" if launch.resident > 1 else launch.threads
    return launch.source + (
        f'extern "C" __global__ void __launch_bounds__({bounds}) {name}('
        f"{', '.join(types)}) {{ extern __shared__ __align__(128) uint8_t shared[]; "
        f"{launch.name}({names}, shared); }}\n"
    )


def cubin(kernel, folder):
    """Machine code of a kernel's launches, and what ptxas says of it."""
    launches = launches_of(kernel)
    text = "".join(entry(launch, f"kernel_{i}") for i, launch in enumerate(launches))
    source = folder / "kernel.cu"
    source.write_text(text)
    output = folder / "kernel.cubin"
    name = kernel.arch.compiled.removeprefix("sm_")
    gencode = f"-gencode=arch=compute_{name},code=sm_{name}"
    done = subprocess.run(
        ["nvcc", "-cubin", gencode, "-Xptxas", "-v", "-o", output, source],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return output, done.stderr


def find_tool(name):
    """cuobjdump of the CUDA toolkit or of the PyPI package."""
    spec = importlib.util.find_spec("nvidia.cu13") if importlib.util.find_spec("nvidia") else None
    folders = [str(Path(p) / "bin") for p in spec.submodule_search_locations] if spec else []
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *folders]))
    return found or pytest.skip(f"{name} is not installed: pip install nvidia-cuda-{name}")


def machine_code(path):
    tools = [find_tool("cuobjdump"), find_tool("nvdisasm")]
    env = {**os.environ, "PATH": os.pathsep.join([str(Path(tools[1]).parent), os.environ["PATH"]])}
    command = [tools[0], "-sass", path]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout


def check(workload, arch, folder, *expected, form=""):
    """Compile: nothing is spilled, and the machine code has what was meant."""
    kernel = tensor_core_kernel(workload, arch_of(arch))
    return check_kernel(kernel.with_residual(form) if form else kernel, folder, *expected)


def check_kernel(kernel, folder, *expected):
    """As :func:`check`, of any kernel."""
    path, told = cubin(kernel, folder)
    clean = told.count("0 bytes spill stores, 0 bytes spill loads")
    assert clean == len(launches_of(kernel)) == told.count("bytes spill stores"), told
    if expected:
        code = machine_code(path)
        found = set(re.findall(r"\b(?:[IB]MMA|STG)\S*", code))
        for instruction in expected:
            assert any(name.startswith(instruction) for name in found), found
    return kernel


slow = pytest.mark.slow
# Bytes leave 16 together, numbers in pairs.
LINE, PAIR = "STG.E.128", "STG.E.64"


@pytest.mark.parametrize(
    "arch, bits, instruction",
    [
        ("sm_75", (8, 8), "IMMA.8816.U8.S8"),
        pytest.param("sm_75", (4, 4), "IMMA.8832.U4.S4", marks=slow),
        pytest.param("sm_75", (1, 1), "BMMA.88128.XOR", marks=slow),
        pytest.param("sm_80", (8, 8), "IMMA.16832.U8.S8", marks=slow),
        pytest.param("sm_80", (4, 8), "IMMA.16832.U8.S8", marks=slow),
        ("sm_80", (4, 4), "IMMA.16864.U4.S4"),
        pytest.param("sm_86", (4, 4), "IMMA.16864.U4.S4", marks=slow),
        pytest.param("sm_89", (4, 4), "IMMA.16864.U4.S4", marks=slow),
        ("sm_80", (1, 1), "BMMA.168256.XOR"),
        pytest.param("sm_90", (8, 8), "IMMA.16832.U8.S8", marks=slow),
        ("sm_90", (4, 8), "IMMA.16832.U8.S8"),
        pytest.param("sm_90", (4, 4), "IMMA.16832.U8.S8", marks=slow),
        ("sm_90", (1, 1), "BMMA.168256.AND"),
        pytest.param("sm_120", (4, 8), "IMMA.16832.U8.S8", marks=slow),
    ],
)
def test_the_instruction_meant_is_the_one_that_runs(arch, bits, instruction, tmp_path):
    workload = dataclasses.replace(RESNET, w_bits=bits[0], x_bits=bits[1])
    check(workload, arch, tmp_path, instruction, LINE)


@slow
def test_blocks_that_go_over_bands_spill_nothing(tmp_path):
    kernel = check(Workload("matmul", (8192, 8192), (8192, 8192)), "sm_80", tmp_path, LINE)
    assert re.search(r"int BAND = (?!1;)", kernel.launch.source)


def test_sums_of_slices_are_stored_in_pairs(tmp_path):
    workload = Workload("matmul", (1, 1024), (1000, 1024), requantize="dequantize")
    kernel = check(workload, "sm_80", tmp_path, "IMMA.16832.U8.S8", PAIR)
    assert kernel.plan.slices > 1


def test_additions_keep_the_lines(tmp_path):
    check(RESNET, "sm_80", tmp_path, LINE, form="float")
    code = machine_code(tmp_path / "kernel.cubin")
    # What is added is asked for before the first line leaves; rounding takes no conversion.
    first = re.findall(r"\b(?:LD|ST)G\.E\.128", code)
    assert first.index(LINE) == min(4, first.count(LINE)) > 1
    assert "F2I" not in code and "FADD" in code


@pytest.mark.parametrize("arch", ["sm_75", pytest.param("sm_90", marks=slow)])
def test_depthwise_layers_multiply_four_taps_at_once(arch, tmp_path):
    layer = dataclasses.replace(RESNET, op="depthwise_conv2d", w_shape=(128, 3, 3, 1), groups=128)
    kernel = SimpleNamespace(launch=DepthwiseKernel(layer).launch, arch=arch_of(arch))
    path, told = cubin(kernel, tmp_path)
    assert "0 bytes spill stores, 0 bytes spill loads" in told
    # Four pixels of four channels, three rows of taps; numbers of channels come in fours.
    code = machine_code(path)
    assert len(re.findall(r"\bIDP\.4A\.U8\.S8", code)) == 48
    assert len(re.findall(r"\bLDG\.E\.128", code)) == 3 + 2


def per_product(code):
    """Instructions of the longest loop that has products, for each product."""
    best = (0, 0)
    for function in code.split("Function :"):
        found = re.findall(r"/\*([0-9a-f]{4,5})\*/\s+(.*?);", function)
        place = {int(at, 16): index for index, (at, _) in enumerate(found)}
        for index, (at, text) in enumerate(found):
            target = re.search(r"\bBRA\S*\s.*0x([0-9a-f]+)", text)
            if target and int(target[1], 16) < int(at, 16):
                body = [text for _, text in found[place[int(target[1], 16)] : index + 1]]
                products = sum(bool(re.search(r"\b[IB]MMA", text)) for text in body)
                best = max(best, (products, len(body)))
    return best[1] / best[0]


@pytest.mark.parametrize(
    "arch, bits, instruction, most",
    [
        ("sm_90", 1, "BMMA.168256.AND", 4.5),
        pytest.param("sm_80", 1, "BMMA.168256.XOR", 3.2, marks=slow),
        pytest.param("sm_80", 4, "IMMA.16864.U4.S4", 3.2, marks=slow),
        pytest.param("sm_75", 4, "IMMA.8832.U4.S4", 3.2, marks=slow),
        pytest.param("sm_75", 1, "BMMA.88128.XOR", 3.2, marks=slow),
    ],
)
def test_packed_activations_leave_little_beside_the_products(
    arch, bits, instruction, most, tmp_path
):
    workload = Workload("matmul", (4096, 4096), (4096, 4096), x_bits=bits, w_bits=bits)
    kernel = tensor_core_kernel(workload, arch_of(arch))
    config = next(config for config in kernel.configs() if config["packed"])
    check_kernel(kernel.with_config(config), tmp_path, instruction, LINE)
    assert per_product(machine_code(tmp_path / "kernel.cubin")) < most


def test_blocks_that_share_their_depth_store_whole_lines(tmp_path):
    workload = Workload("matmul", (1, 25088), (64, 25088))
    kernel = check(workload, "sm_90", tmp_path, "IMMA.16832.U8.S8", LINE)
    assert kernel.plan.splits > 1


@slow
@pytest.mark.parametrize("arch", [arch.name for arch in ARCHES.values()])
@pytest.mark.parametrize("w_bits, x_bits", [(8, 8), (4, 8), (4, 4), (1, 1)])
def test_every_architecture_gets_code_without_spills(w_bits, x_bits, arch, tmp_path):
    check(dataclasses.replace(RESNET, w_bits=w_bits, x_bits=x_bits), arch, tmp_path)


@slow
@pytest.mark.parametrize("form", ["", "fixed_point"])
@pytest.mark.parametrize("name", LAYERS)
def test_every_form_of_layer_compiles(name, form, tmp_path):
    check(LAYERS[name], "sm_80", tmp_path, form=form)
