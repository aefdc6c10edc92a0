"""What nvcc makes of the kernels: the instruction that was meant, and no spills."""

import dataclasses
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_schedules_cuda import LAYERS, conv

from tvmquant.schedules.cuda.kernel import tensor_core_kernel
from tvmquant.targets.cuda import ARCHES, arch_of

pytestmark = pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
RESNET = conv((8, 28, 28, 128), 128, (3, 3))


def cubin(kernel, folder):
    """Machine code of a kernel, and what ptxas says of it."""
    launch = kernel.launch
    types = re.search(rf"void {launch.name}\((.*?)\) \{{", launch.source)[1].split(", ")[:-1]
    names = ", ".join(t.split("*")[1] for t in types)
    text = launch.source + (
        f'extern "C" __global__ void __launch_bounds__({launch.threads}) kernel('
        f"{', '.join(types)}) {{ extern __shared__ __align__(128) uint8_t shared[]; "
        f"{launch.name}({names}, shared); }}\n"
    )
    source = folder / "kernel.cu"
    source.write_text(text)
    output = folder / "kernel.cubin"
    done = subprocess.run(
        ["nvcc", "-cubin", f"-arch={kernel.arch.name}", "-Xptxas", "-v", "-o", output, source],
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


@pytest.mark.parametrize("arch", [arch.name for arch in ARCHES.values()])
@pytest.mark.parametrize("w_bits, x_bits", [(8, 8), (4, 8), (4, 4), (1, 1)])
def test_every_architecture_gets_code_without_spills(w_bits, x_bits, arch, tmp_path):
    workload = dataclasses.replace(RESNET, w_bits=w_bits, x_bits=x_bits)
    _, told = cubin(tensor_core_kernel(workload, arch_of(arch)), tmp_path)
    assert "0 bytes spill stores, 0 bytes spill loads" in told, told


@pytest.mark.parametrize("name", LAYERS)
def test_every_form_of_layer_compiles(name, tmp_path):
    cubin(tensor_core_kernel(LAYERS[name], arch_of("sm_80")), tmp_path)


@pytest.mark.parametrize(
    "arch, bits, instruction",
    [
        ("sm_75", (8, 8), "IMMA.8816.U8.S8"),
        ("sm_75", (4, 4), "IMMA.8832.U4.S4"),
        ("sm_75", (1, 1), "BMMA.88128.XOR"),
        ("sm_80", (8, 8), "IMMA.16832.U8.S8"),
        ("sm_80", (4, 8), "IMMA.16832.U8.S8"),
        ("sm_80", (4, 4), "IMMA.16864.U4.S4"),
        ("sm_86", (4, 4), "IMMA.16864.U4.S4"),
        ("sm_89", (4, 4), "IMMA.16864.U4.S4"),
        ("sm_80", (1, 1), "BMMA.168256.XOR"),
        ("sm_90", (8, 8), "IMMA.16832.U8.S8"),
        ("sm_90", (4, 4), "IMMA.16832.U8.S8"),
        ("sm_90", (1, 1), "BMMA.168256.AND"),
    ],
)
def test_the_instruction_meant_is_the_one_that_runs(arch, bits, instruction, tmp_path):
    workload = dataclasses.replace(RESNET, w_bits=bits[0], x_bits=bits[1])
    path, _ = cubin(tensor_core_kernel(workload, arch_of(arch)), tmp_path)
    code = machine_code(path)
    assert instruction in code, set(re.findall(r"[IB]MMA\S*", code))
