"""TVM's runtime out of a prepared folder, and the devices that its kernels run on."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# PyTorch exchanges tensors itself; without this, tvm_ffi would compile an extension.
os.environ.setdefault("TVM_FFI_DISABLE_TORCH_C_DLPACK", "1")
_CUDA = 2


def load(folder: Path, cuda: bool) -> Any:
    """Import ``tvm_ffi`` with TVM's runtime libraries; returns the package.

    Parameters
    ----------
    folder : Path
        ``runtime`` of the prepared folder; where it is missing, the installed packages are used.
    cuda : bool
        Whether kernels for GPUs will be loaded.

    Raises
    ------
    RuntimeError
        If a library cannot be loaded.
    """
    site, libraries = folder / "site", folder / "lib"
    if site.is_dir():
        sys.path.insert(0, str(site))
    if cuda:
        # Its own libcudart and the driver are found by name, once they are loaded.
        torch = torch_or_none()
        if torch is not None:
            torch.cuda.is_available()
    import tvm_ffi

    if not libraries.is_dir():
        import tvm

        libraries = Path(tvm.__file__).parent / "lib"
    names = ["libtvm_runtime.so", "libtvm_runtime_extra.so"]
    for name in [*names, "libtvm_runtime_cuda.so"] if cuda else names:
        try:
            ctypes.CDLL(str(libraries / name), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise RuntimeError(f"cannot load {name}: {error}") from None
    return tvm_ffi


def torch_or_none() -> Any:
    """PyTorch, if it is there."""
    try:
        import torch
    except (ImportError, OSError):
        return None
    return torch


class Processor:
    """Kernels for the processor: arrays are NumPy's."""

    name, kind = "processor", 1

    def __init__(self, ffi: Any) -> None:
        self.ffi = ffi

    def put(self, array: np.ndarray) -> Any:
        """An array on the device."""
        memory = np.zeros(array.nbytes + 64, np.uint8)
        start = -memory.ctypes.data % 64
        copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        copy[...] = array
        return copy

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        """An array of anything but what is expected."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.put(np.full(size, 0xA5, np.uint8).view(dtype).reshape(shape))

    def get(self, array: Any) -> np.ndarray:
        """As NumPy."""
        return np.array(array)

    def copy(self, array: Any) -> Any:
        """The same numbers at another address."""
        return self.put(self.get(array))

    def given(self, array: Any) -> Any:
        """As an argument of a kernel."""
        return self.ffi.from_dlpack(array)

    def taken(self, tensor: Any) -> Any:
        """What a program returned, as an array."""
        return np.from_dlpack(tensor)

    def sync(self) -> None:
        """Wait until all is done."""

    def times(self, run: Callable[[], None], repeats: int) -> float:
        """Microseconds of one run."""
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        self.sync()
        return (time.perf_counter() - start) / repeats * 1e6


class Gpu(Processor):
    """An NVIDIA GPU without PyTorch: what TVM's runtime offers."""

    def __init__(self, ffi: Any, kind: int = _CUDA) -> None:
        super().__init__(ffi)
        self.kind, self._call = kind, ffi.get_global_func
        self.device = ffi.device("cuda" if kind == _CUDA else "cpu", 0)
        # 0 is whether it exists, 5 its name.
        attribute = self._call("runtime.GetDeviceAttr")
        if not attribute(kind, 0, 0):
            raise RuntimeError("this machine has no NVIDIA GPU, or no driver")
        self.name = str(attribute(kind, 0, 5))

    def put(self, array: np.ndarray) -> Any:
        array = np.ascontiguousarray(array)
        tensor = self._tensor(array.shape, str(array.dtype))
        copy = self._call("runtime.TVMTensorCopyFromBytes")
        copy(tensor, ctypes.c_void_p(array.ctypes.data), array.nbytes)
        return tensor

    def _tensor(self, shape: Sequence[int], dtype: str) -> Any:
        make = self._call("runtime.TVMTensorAllocWithScope")
        return make(self.ffi.Shape(shape), self.ffi.dtype(dtype), self.device, None)

    def get(self, array: Any) -> np.ndarray:
        out = np.empty(tuple(array.shape), str(array.dtype))
        copy = self._call("runtime.TVMTensorCopyToBytes")
        copy(array, ctypes.c_void_p(out.ctypes.data), out.nbytes)
        return out

    def given(self, array: Any) -> Any:
        return array

    def taken(self, tensor: Any) -> Any:
        return tensor

    def sync(self) -> None:
        self._call("runtime.Device_StreamSync")(self.device, 0)


class TorchGpu(Processor):
    """An NVIDIA GPU through PyTorch: its memory, its streams, its events."""

    kind = _CUDA

    def __init__(self, ffi: Any, torch: Any) -> None:
        super().__init__(ffi)
        self.torch = torch
        self.name = torch.cuda.get_device_name(0)

    def put(self, array: np.ndarray) -> Any:
        return self.torch.from_numpy(np.array(array)).cuda()

    def get(self, array: Any) -> np.ndarray:
        return array.cpu().numpy()

    def copy(self, array: Any) -> Any:
        return array.clone()

    def taken(self, tensor: Any) -> Any:
        return self.torch.from_dlpack(tensor)

    def sync(self) -> None:
        self.torch.cuda.synchronize()


def open_device(ffi: Any, cuda: bool) -> Processor:
    """The device that prepared kernels were compiled for.

    Raises
    ------
    RuntimeError
        If there is no GPU.
    """
    if not cuda:
        return Processor(ffi)
    torch = torch_or_none()
    if torch is None:
        return Gpu(ffi)
    if not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no NVIDIA GPU here, or has no CUDA")
    return TorchGpu(ffi, torch)
