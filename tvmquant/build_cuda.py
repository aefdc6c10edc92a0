"""Building for NVIDIA GPUs, also where there is none: nvcc makes machine code, or it is an error.

Without ``libcuda.so.1`` TVM's CUDA runtime does not load, and TVM then hands back a module that
holds nothing but source, without a word. A stand-in for the driver, whose functions all say that
there is no device, is enough to load it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import tvm
import tvm_ffi
from tvm.support.nvcc import compile_cuda

from tvmquant.errors import TargetError, TvmQuantError
from tvmquant.runtime.gpu import cuda_is_loaded, load_cuda
from tvmquant.runtime.toolchain import find_toolchain, machine

# What TVM calls to compile CUDA, and where it looks for an option of its own.
_HOOK = "tvm_callback_cuda_compile"
_BUILD = "target.build.cuda"
_NO_FAST_MATH = "TVM_CUDA_NVCC_NO_FAST_MATH"
_CALLS = (
    "cuDeviceGetName cuFuncSetAttribute cuLaunchKernelEx cuModuleGetFunction cuModuleLoadData "
    "cuModuleUnload cuTensorMapEncodeTiled"
).split()
_NO_DEVICE = 100
# What a kernel says of its launch, see tvmquant.schedules.cuda.launch, and what TVM's runtime goes
# by (the name is TVM's): the size of shared memory comes last.
EARLY = "tvmquant.starts_early"
_PARAMS, _DEPENDENT = "tirx.kernel_launch_params", "tirx.use_programtic_dependent_launch"
_SHARED = "tirx.use_dyn_shared_memory"


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
def nvcc(archs: Sequence[str]) -> Iterator[None]:
    """TVM compiles CUDA with nvcc here, to machine code for each of the architectures.

    Without ``--use_fast_math``, TVM's default: it would round divisions otherwise than a
    processor does, and so quantize some values to the next integer.

    Parameters
    ----------
    archs : sequence of str
        As nvcc calls them, for example ``sm_80`` or ``sm_90a``.

    Raises
    ------
    TargetError
        If nvcc is not installed.
    TvmQuantError
        If it fails.
    """
    check_nvcc()
    load_runtime()
    numbers = [name.removeprefix("sm_") for name in archs]
    wanted = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
    failures: list[str] = []

    def compile_all(code: str) -> bytearray:
        try:
            return compile_cuda(code, target_format="fatbin", arch=wanted, compiler="nvcc")
        except RuntimeError as error:
            lines = str(error).rpartition("Compilation error:")[2].splitlines()
            failures.append(" ".join([line for line in lines if "error" in line.lower()][:2]))
            raise

    hook, fast = tvm.get_global_func(_HOOK), os.environ.get(_NO_FAST_MATH)
    generate = tvm.get_global_func(_BUILD)

    def generate_all(mod: tvm.IRModule, target: tvm.target.Target) -> tvm.runtime.Module:
        return generate(_launched_early(mod), target)

    tvm_ffi.register_global_func(_HOOK, compile_all, override=True)
    tvm_ffi.register_global_func(_BUILD, generate_all, override=True)
    os.environ[_NO_FAST_MATH] = "1"
    try:
        yield
    except RuntimeError as error:
        if not failures:
            raise
        raise TvmQuantError(f"nvcc failed: {failures[0] or 'it does not say why'}") from error
    finally:
        tvm_ffi.register_global_func(_HOOK, hook, override=True)
        tvm_ffi.register_global_func(_BUILD, generate, override=True)
        if fast is None:
            del os.environ[_NO_FAST_MATH]
        else:
            os.environ[_NO_FAST_MATH] = fast


def _launched_early(mod: tvm.IRModule) -> tvm.IRModule:
    """Kernels that are marked may start before the launch before them has ended.

    TVM's runtime knows how (CUDA calls it programmatic dependent launch), its passes do not ask.
    """
    return tvm.IRModule({n: _tagged(f) for n, f in mod.functions.items()}, attrs=mod.attrs)


def _tagged(function: tvm.tirx.PrimFunc) -> tvm.tirx.PrimFunc:
    marks: list[str] = []

    def visit(node: tvm.tirx.AttrStmt) -> None:
        marks.append(node.attr_key)

    tvm_ffi.structural_walk(function.body, [(tvm.tirx.AttrStmt, visit)])
    params = list(function.attrs.get(_PARAMS, ()))
    if EARLY not in marks or _DEPENDENT in params:
        return function
    at = params.index(_SHARED) if _SHARED in params else len(params)
    return function.with_attr(_PARAMS, [*params[:at], _DEPENDENT, *params[at:]])
