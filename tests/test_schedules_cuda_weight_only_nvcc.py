"""What nvcc makes of weight-only kernels: so few instructions that memory is the limit."""

import re
import shutil

import numpy as np
import pytest
from frontend_tools import make_model, node
from test_schedules_cuda_nvcc import cubin, machine_code
from test_schedules_cuda_weight_only import kernel_of
from weight_only_tools import weight_only_workload

import tvmquant
from tvmquant.schedules.cuda import weight_only_estimate
from tvmquant.targets.cuda import arch_of

pytestmark = pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
slow = pytest.mark.slow

# Of an H200: 4.3 TB/s at 1.755 GHz, 132 multiprocessors that issue four instructions a cycle.
BYTES_A_CYCLE = 4.3e12 / 1.755e9 / 132
ISSUED = 4


def compiled(workload, arch, folder):
    """A kernel and the code of its products, as addresses and instructions; nothing is spilled."""
    kernel = kernel_of(workload, arch_of(arch))
    path, told = cubin(kernel, folder)
    clean = told.count("0 bytes spill stores, 0 bytes spill loads")
    assert clean == len(kernel.launches), told
    (product,) = (code for code in machine_code(path).split("Function :") if "IMMA" in code)
    found = re.finditer(r"/\*([0-9a-f]{4,5})\*/\s+(.*?);", product)
    return kernel, [(int(each[1], 16), each[2]) for each in found]


def main_loop(code):
    """Instructions of the shortest loop with products."""
    loops = []
    for end, text in code:
        target = re.search(r"BRA\S*\s+(?:\S+, )?0x([0-9a-f]+)", text)
        if target and int(target[1], 16) < end:
            loop = [text for at, text in code if int(target[1], 16) <= at <= end]
            if any("IMMA" in text for text in loop):
                loops.append(loop)
    return min(loops, key=len)


@pytest.mark.parametrize(
    "arch, rows, bits, group, zero_points, share",
    [
        ("sm_90", 1, 4, 128, False, 0.35),
        pytest.param("sm_90", 1, 4, 32, False, 0.5, marks=slow),
        pytest.param("sm_90", 1, 4, 64, True, 0.5, marks=slow),
        pytest.param("sm_90", 1, 8, 128, False, 0.2, marks=slow),
        pytest.param("sm_90", 1, 2, 128, False, 0.7, marks=slow),
        pytest.param("sm_90", 4, 4, 128, False, 0.5, marks=slow),
        pytest.param("sm_90", 8, 4, 128, False, 0.6, marks=slow),
        pytest.param("sm_90", 16, 4, 128, False, 0.7, marks=slow),
        pytest.param("sm_90", 8, 4, 32, False, 0.75, marks=slow),
        pytest.param("sm_80", 1, 4, 128, False, 0.6, marks=slow),
        pytest.param("sm_100", 1, 4, 128, False, 0.35, marks=slow),
    ],
)
def test_memory_is_the_limit(arch, rows, bits, group, zero_points, share, tmp_path):
    """The main loop issues well before memory has its weights: ``share`` of the time, at most."""
    workload = weight_only_workload(rows, 8192, 8192, bits, group, zero_points)
    kernel, code = compiled(workload, arch, tmp_path)
    plan, texts = kernel.plan, [text for _, text in code]
    loop = main_loop(code)
    read = plan.ahead * plan.tiles * plan.layout.loads * 512
    with_scales = plan.ahead * plan.tiles * plan.layout.tile_bytes / plan.layout.spans
    assert len(loop) / ISSUED < share * with_scales / BYTES_A_CYCLE, len(loop)
    assert sum("IMMA.16832.S8.S8" in text for text in loop) >= read // (128 * bits // 2)
    wide = re.compile(r"LDG\.E\S*\.128")
    assert sum(bool(wide.search(text)) for text in loop) == read // 512
    # Activations and all of the first weights are on their way before anybody waits.
    waits = ("SHFL", "BAR.", "DEPBAR.LE", "ACQBULK")
    first = next(at for at, text in enumerate(texts) if any(word in text for word in waits))
    before = sum(".NA.128" in text for text in texts[:first])
    assert before == plan.ahead * plan.tiles * plan.layout.loads


@slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_120"])
@pytest.mark.parametrize("rows", [1, 16, 32])
@pytest.mark.parametrize("group, zero_points", [(32, True), (128, False), (0, False)])
def test_nothing_is_spilled(group, zero_points, rows, arch, tmp_path):
    compiled(weight_only_workload(rows, 4096, 4096, 4, group, zero_points), arch, tmp_path)


def test_sizes_of_the_search_are_not_spilled(tmp_path):
    kernel = kernel_of(weight_only_workload(8, 4096, 4096, 4, 64, True))
    config = max(kernel.configs(), key=lambda config: kernel.with_config(config).plan.registers)
    kernel = kernel.with_config(config)
    _, told = cubin(kernel, tmp_path)
    assert told.count("0 bytes spill stores, 0 bytes spill loads") == len(kernel.launches), told


@pytest.mark.parametrize("rows", [1, pytest.param(16, marks=slow)])
@pytest.mark.filterwarnings("ignore:no calibration data")
def test_a_network_compiles_to_machine_code(rows, monkeypatch, tmp_path):
    # Making digits takes long here, so that several rows of this size have a launch for them.
    monkeypatch.setattr(weight_only_estimate, "_DIGITS", 10**4 if rows > 1 else 0)
    weight_only_estimate.choose.cache_clear()
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((1024, 1024)).astype(np.float32)
    x = np.zeros((rows, 1024), np.float32)
    network = make_model([node("MatMul", "x w", name="fc")], {"x": x}, {"w": weight})
    try:
        model = tvmquant.compile(network, target="cuda-sm_90", bits="w4a16")
    finally:
        weight_only_estimate.choose.cache_clear()
    (layer,) = (layer for layer in model.manifest.layers if layer.macs)
    assert layer.kernel.split()[0] == "digits"
    assert ("packed" in layer.kernel) == (rows > 1)
    library = model.save(tmp_path / "model") / "model.so"
    written = library.read_bytes()
    assert written.count(b"\x7fELF") >= 2
    assert b"tirx.use_programtic_dependent_launch" in written
