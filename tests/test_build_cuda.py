"""Whole networks for NVIDIA GPUs, on a machine that may have none."""

import shutil
from importlib.resources import files
from pathlib import Path

import pytest
import tvm
from test_schedules_cuda_nvcc import machine_code

import tvmquant
from tvmquant.build_cuda import nvcc
from tvmquant.errors import BundleError, TargetError, TvmQuantError
from tvmquant.schedules.cuda import estimate
from tvmquant.schedules.cuda.candidates import choose
from tvmquant.targets import get_device

EFFICIENTNET = Path(__file__).parents[2] / "shared" / "models" / "efficientnet_lite0.onnx"
DEMO = files("tvmquant") / "assets" / "demo.onnx"
needs_nvcc = pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:no calibration data")


def kernels_of(model):
    return {layer.kernel.split()[0] for layer in model.manifest.layers if layer.macs}


@needs_nvcc
@pytest.mark.parametrize(
    "arch, bits, product",
    [("sm_80", "w4a4", "u4s4"), ("sm_90", "w4a8", "u8s8"), ("sm_75", 1, "bits_xor")],
)
def test_the_demo_compiles_to_machine_code(arch, bits, product, tmp_path):
    model = tvmquant.compile(
        DEMO, target=f"cuda-{arch}", bits=bits, input_shapes={"image": (8, 1, 28, 28)}
    )
    assert product in kernels_of(model)
    library = model.save(tmp_path / "model") / "model.so"
    # Machine code for this architecture, not source: an ELF image inside of the library.
    assert library.read_bytes().count(b"\x7fELF") >= 2
    if not tvm.cuda(0).exist:
        with pytest.raises(BundleError, match=f"NVIDIA GPU \\({arch}\\), this machine has none"):
            tvmquant.load(tmp_path / "model")


@needs_nvcc
@pytest.mark.parametrize(
    "arch, bits, batch, words",
    [("sm_80", "w4a4", 8, "packed"), ("sm_90", 1, 8, "packed"), ("sm_90", 8, 1, "parts")],
)
def test_layers_of_several_launches_compile(arch, bits, batch, words, monkeypatch, tmp_path):
    # Launches cost nothing here, so that layers of this size have several.
    monkeypatch.setattr(estimate, "_LAUNCH", 0)
    choose.cache_clear()
    try:
        model = tvmquant.compile(
            DEMO, target=f"cuda-{arch}", bits=bits, input_shapes={"image": (batch, 1, 28, 28)}
        )
    finally:
        choose.cache_clear()
    assert any(words in layer.kernel for layer in model.manifest.layers)
    library = model.save(tmp_path / "model") / "model.so"
    assert library.read_bytes().count(b"\x7fELF") >= 2


@needs_nvcc
@pytest.mark.slow
@pytest.mark.skipif(not EFFICIENTNET.exists(), reason="needs ../shared/models")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_efficientnet_lite0_compiles(arch):
    model = tvmquant.compile(EFFICIENTNET, target=f"cuda-{arch}", bits="w4a8")
    assert kernels_of(model) == {"u8s8", "depthwise"}


def test_without_nvcc_the_message_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(TargetError, match="nvcc is not installed"):
        tvmquant.compile(DEMO, target="cuda-sm_80", bits=8, input_shapes={"image": (1, 1, 28, 28)})


def test_gpus_that_are_not_there_and_unknown_ones_are_refused():
    with pytest.raises(TargetError, match=r"unknown CUDA architecture 'sm_12'.*sm_80"):
        get_device("cuda-sm_12")
    if not tvm.cuda(0).exist:
        with pytest.raises(TargetError, match=r"no NVIDIA GPU .*cuda-sm_80"):
            get_device("cuda")


@needs_nvcc
def test_divisions_round_as_on_processors(tmp_path):
    text = 'extern "C" __global__ void divide(float *x) { x[0] = x[1] / x[2]; }'
    hook = "tvm_callback_cuda_compile"
    before = tvm.get_global_func(hook)
    with nvcc(["sm_80", "sm_90a"]), get_device("cuda-sm_80").target:
        path = tmp_path / "divide.fatbin"
        path.write_bytes(bytes(tvm.get_global_func(hook)(text)))
    assert tvm.get_global_func(hook).same_as(before)
    code = machine_code(path)
    # The check that a division in one step would be exact; --use_fast_math leaves it out.
    assert code.count("FCHK") == 2 and "sm_90a" in code


@needs_nvcc
def test_what_nvcc_says_is_one_line():
    device = get_device("cuda-sm_80")
    with pytest.raises(TvmQuantError, match=r"nvcc failed: .*expected a"):
        with nvcc(["sm_80"]), device.target:
            tvm.get_global_func("tvm_callback_cuda_compile")("nonsense")
