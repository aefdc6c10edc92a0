"""CUDA kernels on the CPU: their source, compiled with an emulator of a thread block."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from kernel_tools import expected, make_data
from test_schedules_addition import make_sum

from tvmquant.schedules.cuda.source import header
from tvmquant.schedules.linear.addition import INTEGER_FORMS
from tvmquant.schedules.meaning import with_sum

EMULATOR = Path(__file__).parent / "cuda_emulator"
# Arguments that no launch writes.
CONSTANTS = ("weights", "bias", "scale", "zero_point")


def compiler():
    """A C++ compiler: the system's, or zig; the test is skipped where there is none."""
    for name in filter(None, (os.environ.get("CXX"), "g++", "clang++")):
        if shutil.which(name):
            return [name]
    pytest.importorskip("ziglang", reason="no C++ compiler: python -m pip install ziglang")
    return [sys.executable, "-m", "ziglang", "c++"]


def emulated(launch, folder, *, reverse=False):
    """Function ``(*arrays)`` that runs a launch on the CPU, in place."""
    source = launch.source.replace(header("ptx.cuh"), "")
    wgmma = '#include "wgmma.cuh"' if header("wgmma.cuh") in source else ""
    source = source.replace(header("wgmma.cuh"), "")
    count = source[source.index(f"void {launch.name}(") :].split(")")[0].count(",")
    pointers = ", ".join(f"static_cast<Pointer>(arrays[{i}])" for i in range(count))
    x, y, z = launch.grid
    late = [i for i, name in enumerate(launch.takes) if launch.early and name not in CONSTANTS]
    late = sum(1 << i for i in late)
    text = f"""
#include "ptx.cuh"
{wgmma}
{source}
struct Pointer {{
  void *address;
  explicit Pointer(void *a) : address(a) {{}}
  template <class T> operator T *() const {{ return static_cast<T *>(address); }}
}};
extern "C" void run(void **arrays, const int64_t *sizes, void *arena, int64_t arena_bytes) {{
  std::vector<uint8_t> memory({launch.shared_bytes} + 256);
  uint8_t *shared = memory.data() + (256 - reinterpret_cast<uintptr_t>(memory.data()) % 256);
  emulator::shared_first = shared;
  emulator::shared_bytes = {launch.shared_bytes};
  emulator::start_checks(arrays, sizes, {count}, arena, arena_bytes);
  emulator::late_buffers = {late};
  emulator::launch({{{x}, {y}, {z}}}, {{{launch.threads}, 1, 1}}, memory,
                   {str(reverse).lower()}, [=] {{ {launch.name}({pointers}, shared); }});
  for (uint8_t *at = shared + {launch.shared_bytes}; at < memory.data() + memory.size(); ++at) {{
    if (*at != 0xA5) emulator::fail("more shared memory was written than there is");
  }}
}}
"""
    stem = hashlib.sha256(text.encode()).hexdigest()[:16]
    library = Path(folder) / f"{stem}.so"
    if not library.exists():
        path = library.with_suffix(".cpp")
        path.write_text(text)
        flags = ["-std=c++17", "-O1", "-w", "-fPIC", "-ffp-contract=off"]
        # Calls before every access of memory, which cuda_emulator/memory.h takes (no library),
        # and a trap (SIGILL) where a vector is not aligned to its size.
        flags += ["-fsanitize=thread,alignment", "-fsanitize-undefined-trap-on-error"]
        compiled = path.with_suffix(".o")
        for command in (
            [*flags, f"-I{EMULATOR}", "-c", str(path), "-o", str(compiled)],
            ["-shared", str(compiled), "-o", str(library)],
        ):
            subprocess.run([*compiler(), *command], check=True, capture_output=True, text=True)
    run = ctypes.CDLL(str(library)).run

    def call(*arrays):
        assert len(arrays) == count
        places, arena = in_arena(arrays)
        addresses = (ctypes.c_void_p * count)(*(place.ctypes.data for place in places))
        sizes = (ctypes.c_int64 * count)(*(place.nbytes for place in places))
        run(addresses, sizes, ctypes.c_void_p(arena.ctypes.data), ctypes.c_int64(arena.nbytes))
        arrays[-1][...] = places[-1]

    return call


def in_arena(arrays):
    """Copies in one piece of memory, as on a GPU at multiples of 256, and it: far apart."""
    gap, memory = 1 << 16, sum(-(-array.nbytes // 256) * 256 for array in arrays)
    arena = np.full(memory + gap * (len(arrays) + 2), 0xA5, np.uint8)
    at, places = gap - (arena.ctypes.data + gap) % 256 + 256, []
    for array in arrays:
        place = arena[at : at + array.nbytes].view(array.dtype).reshape(array.shape)
        place[...] = array
        places.append(place)
        at += -(-array.nbytes // 256) * 256 + gap
    return places, arena


def aligned(array):
    """Copy at an address like those of GPU memory."""
    memory = np.zeros(array.nbytes + 256, np.uint8)
    start = -memory.ctypes.data % 256
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def launches_of(kernel):
    """All launches of a kernel, in order."""
    return getattr(kernel, "launches", None) or (kernel.launch,)


def guarded(shape, dtype):
    """Array full of garbage, and a function that checks what lies around it."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = aligned(np.full(size + 512, 0xA5, np.uint8))

    def check():
        assert (memory[:256] == 0xA5).all() and (memory[256 + size :] == 0xA5).all()

    return memory[256 : 256 + size].view(dtype).reshape(shape), check


def run_arrays(kernel, folder, *arrays, reverse=False):
    """Run all launches of a kernel in the emulator; ``arrays`` are its arguments but the output.

    Returns the output; what lies around it and around scratch memory must stay as it was.
    """
    *names, (last, shape, dtype) = kernel.arguments
    assert len(names) == len(arrays)
    buffers = {name: array for (name, *_), array in zip(names, arrays)}
    buffers[last], check = guarded(shape, dtype)
    checks = [check]
    for name, shape, dtype in getattr(kernel, "scratch", ()):
        buffers[name], check = guarded(shape, dtype)
        checks.append(check)
    for launch in launches_of(kernel):
        taken = launch.takes or [name for name, *_ in kernel.arguments]
        emulated(launch, folder, reverse=reverse)(*(buffers[name] for name in taken))
    for check in checks:
        check()
    return buffers[last]


def run_kernel(kernel, folder, x, w, bias, params, qinfo, *others, reverse=False):
    """Output of an integer kernel in the emulator; what lies around it must stay as it was.

    ``others`` is the tensor of a residual addition, if there is one.
    """
    arrays = [aligned(a) for a in (x, *kernel.pack(w, bias, params), qinfo, *others)]
    return run_arrays(kernel, folder, *arrays, reverse=reverse)


def check_kernel(kernel, folder, seed=0, *, extreme=None, added=False, reverse=None):
    """An integer kernel in the emulator gives the bits of the reference.

    ``added``: with a residual addition, if its output can have one. What is ``None`` goes by the
    seed: extreme values, warps in reverse.
    """
    extreme = seed % 2 == 1 if extreme is None else extreme
    reverse = seed % 2 == 0 if reverse is None else reverse
    *data, qinfo = make_data(kernel.workload, seed, extreme)
    meant = expected(kernel.workload, *data, qinfo)
    others = []
    if added and kernel.workload.out_dtype == "uint8":
        total = make_sum(qinfo, INTEGER_FORMS[seed % 3], seed=seed)
        form, numbers = total.encode(False)
        others = [np.random.default_rng(seed).integers(0, 256, meant.shape).astype(np.uint8)]
        meant = with_sum(meant, others[0], total)
        kernel, qinfo = kernel.with_residual(form), np.concatenate([qinfo, numbers])
    got = run_kernel(kernel, folder, *data, qinfo, *others, reverse=reverse)
    np.testing.assert_array_equal(got, meant, err_msg=str(getattr(kernel, "plan", "")))
