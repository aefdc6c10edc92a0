"""Models for NVIDIA GPUs: whether a machine can run them, and where."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi

from tvmquant.runtime.manifest import Manifest

# Name of the function that :func:`offer_flush` registers.
FLUSH = "tvmquant.device.flush_caches"
# More than the second-level cache of any GPU: 126 MB on a B200.
_FLUSHED_BYTES = 256 << 20
# Registered by TVM's CUDA runtime.
_CREATE = "ffi.Module.create.cuda"
_CUDART = "libcudart.so.13"


@dataclass(frozen=True)
class Gpu:
    """A GPU that is there.

    Attributes
    ----------
    name : str
        As its driver calls it, for example ``NVIDIA H200``.
    arch : str
        For example ``sm_90``.
    """

    name: str
    arch: str


def cuda_is_loaded() -> bool:
    """Whether TVM's CUDA runtime is: without it modules hold only source."""
    return tvm.get_global_func(_CREATE, allow_missing=True) is not None


def load_cuda() -> OSError | None:
    """Load TVM's CUDA runtime if it is not, and return why that failed.

    ``import tvm`` does it where it can, but not in a process that only has TVM's runtime, and not
    where libcudart comes from PyPI.
    """
    if cuda_is_loaded():
        return None
    library = Path(tvm.__file__).parent / "lib" / "libtvm_runtime_cuda.so"
    try:
        _load(_CUDART)
    except OSError:
        # Of the package nvidia-cuda-runtime.
        spec = importlib.util.find_spec("nvidia")
        folders = spec.submodule_search_locations if spec is not None else None
        found = [path for folder in folders or () for path in Path(folder).glob(f"*/lib/{_CUDART}")]
        for path in found[:1]:
            with contextlib.suppress(OSError):
                _load(path)
    try:
        _load(library)
    except OSError as error:
        return error
    return None


def _load(library: str | Path) -> None:
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def local_gpu() -> Gpu | None:
    """The first GPU of this machine. CUDA is no use in forks of the process that asked."""
    if load_cuda() is not None or not tvm.cuda(0).exist:
        return None
    device = tvm.cuda(0)
    return Gpu(str(device.device_name), "sm_" + str(device.compute_version).replace(".", ""))


def cuda_archs(manifest: Manifest) -> list[str]:
    """Architectures that a model has machine code for; empty if it needs no GPU."""
    target = json.loads(manifest.target_json)
    if target.get("kind") != "cuda":
        return []
    return manifest.cuda_archs or [str(target["arch"])]


def why_no_gpu(archs: Sequence[str], here: Gpu | None, machine: str = "this machine") -> str | None:
    """Say in one line why a machine cannot run kernels for ``archs``; ``None`` when it can.

    Parameters
    ----------
    archs : sequence of str
        Not empty.
    here : Gpu or None
        What the machine has.
    machine : str
        What to call it.
    """
    made = " and ".join(arch.removesuffix("a") for arch in archs)
    if here is None:
        return (
            f"it was compiled for an NVIDIA GPU ({made}), {machine} has none or no driver: "
            "run it on one that has, or by --rpc where tvmquant serve runs"
        )
    if any(runs_on(arch, here.arch) for arch in archs):
        return None
    return (
        f"it was compiled for {made}, the GPU of {machine} is {here.arch}: compile it with target "
        f"cuda-{here.arch}"
    )


def runs_on(made_for: str, here: str) -> bool:
    """Whether machine code for one architecture runs on another one.

    It does on its own major version, from its minor version on; what uses the special
    instructions of an architecture, as ``sm_90a``, runs nowhere else.
    """
    if made_for.endswith("a"):
        return made_for.removesuffix("a") == here
    made, there = _numbers(made_for), _numbers(here)
    return made[0] == there[0] and made[1] <= there[1]


def _numbers(arch: str) -> tuple[int, int]:
    digits = arch.removeprefix("sm_")
    return int(digits[:-1]), int(digits[-1])


def device_for(manifest: Manifest, machine: Any = tvm) -> Any:
    """The TVM device that a model's arrays live on.

    Parameters
    ----------
    manifest : Manifest
    machine : module or tvm.rpc.RPCSession
        What makes devices; TVM itself for this machine.
    """
    return machine.cuda(0) if cuda_archs(manifest) else machine.cpu(0)


def finished(run: Callable[..., Any], device: Any) -> Callable[..., Any]:
    """``run``, returning when the device has done what it was given."""
    if tvm.cpu() == device:
        return run

    def waiting(*arguments: Any) -> Any:
        result = run(*arguments)
        device.sync()
        return result

    return waiting


def offer_flush() -> None:
    """Register :data:`FLUSH`, a function that fills the caches of the GPU with other memory.

    It returns while the copy is still under way.
    """
    buffers: list[Any] = []

    def flush(*_arguments: Any) -> None:
        if not buffers:
            device, shape = tvm.cuda(0), (_FLUSHED_BYTES,)
            buffers.extend(tvm.runtime.empty(shape, "uint8", device) for _ in range(2))
        buffers[0].copyto(buffers[1])

    tvm_ffi.register_global_func(FLUSH, flush, override=True)
