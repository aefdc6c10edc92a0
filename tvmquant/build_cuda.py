"""Building for NVIDIA GPUs, also where there is none: nvcc makes machine code, or it is an error.

Without ``libcuda.so.1`` TVM's CUDA runtime does not load, and TVM then hands back a module that
holds nothing but source, without a word. A stand-in for the driver, whose functions all say that
there is no device, is enough to load it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tvmquant.errors import TargetError, TvmQuantError
from tvmquant.runtime.gpu import cuda_is_loaded, load_cuda
from tvmquant.runtime.toolchain import find_toolchain, machine

_MODE = "TVM_CUDA_COMPILE_MODE"
_CALLS = (
    "cuDeviceGetName cuFuncSetAttribute cuLaunchKernelEx cuModuleGetFunction cuModuleLoadData "
    "cuModuleUnload cuTensorMapEncodeTiled"
).split()
_NO_DEVICE = 100


def _stand_in() -> str:
    calls = "".join(f"int {name}(void) {{ return {_NO_DEVICE}; }}\n" for name in _CALLS)
    told = '{ *text = "no NVIDIA driver on this machine"; return 0; }\n'
    names = ("cuGetErrorName", "cuGetErrorString")
    return calls + "".join(f"int {n}(int error, const char **text) {told}" for n in names)


@cache
def load_runtime() -> None:
    """Load TVM's CUDA runtime, with a stand-in where this machine has no driver.

    Raises
    ------
    TargetError
        If the CUDA runtime library is missing.
    BundleError
        If there is neither a driver nor a C compiler.
    """
    if cuda_is_loaded():
        return
    if not _has_driver():
        with tempfile.TemporaryDirectory() as work:
            source, library = Path(work) / "driver.c", Path(work) / "libcuda.so.1"
            source.write_text(_stand_in())
            options = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, source]
            find_toolchain(machine()).run(*options)
            # The loader keeps it, found by its SONAME, when the file is gone.
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    error = load_cuda()
    if error is not None:
        raise TargetError(
            f"TVM's CUDA runtime cannot be loaded ({error}): install the CUDA toolkit 13, or "
            "python -m pip install nvidia-cuda-runtime, and put its library on LD_LIBRARY_PATH"
        )


def _has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1", mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def check_nvcc() -> None:
    """Whether nvcc is there.

    Raises
    ------
    TargetError
        If not.
    """
    if shutil.which("nvcc") is None:
        raise TargetError(
            "nvcc is not installed (or not on the PATH): compiling for CUDA needs the compiler of "
            "the CUDA toolkit, no GPU and no driver"
        )


@contextmanager
def nvcc() -> Iterator[None]:
    """TVM compiles CUDA with nvcc here.

    Raises
    ------
    TargetError
        If nvcc is not installed.
    """
    check_nvcc()
    load_runtime()
    before = os.environ.get(_MODE)
    os.environ[_MODE] = "nvcc"
    try:
        yield
    except (RuntimeError, subprocess.CalledProcessError) as error:
        if "nvcc" not in str(error) and "ptxas" not in str(error):
            raise
        lines = [line for line in str(error).splitlines() if "error" in line.lower()]
        raise TvmQuantError(f"nvcc failed: {' '.join(lines[:2])}") from error
    finally:
        if before is None:
            del os.environ[_MODE]
        else:
            os.environ[_MODE] = before
