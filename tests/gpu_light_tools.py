"""Scheduled PrimFuncs of a GPU on the CPU: the CUDA text that TVM makes of them, emulated."""

import ctypes
import re
import subprocess
import zlib
from pathlib import Path

import numpy as np
import tvm
import tvm_ffi
from cuda_tools import EMULATOR, compiler
from tvm import tirx

from tvmquant.build_cuda import load_runtime

HOOK = "tvm_callback_cuda_compile"
KERNEL = re.compile(r'extern "C" __global__ void(?: __launch_bounds__\(\d+\))? (\w+)\(([^)]*)\) \{')
# What TVM's own text needs besides, as the programming guide has it.
PRELUDE = """
#include "ptx.cuh"
#include <cmath>
#define CUDART_NAN_F NAN
#define CUDART_INF_F INFINITY
typedef unsigned char uchar;
typedef unsigned int uint;
inline unsigned __activemask() { return 0xFFFFFFFFu; }
template <class T>
T from_lane(T value, int lane) {
  static_assert(sizeof(T) == 4);
  std::memcpy(emulator::own().exchange, &value, 4);
  emulator::wait(1);
  std::memcpy(&value, emulator::of_lane(lane).exchange, 4);
  emulator::wait(1);
  return value;
}
template <class T>
T __shfl_down_sync(unsigned, T value, int by, int width) {
  const int lane = emulator::lane();
  return from_lane(value, lane % width + by < width ? lane + by : lane);
}
template <class T>
T __shfl_sync(unsigned, T value, int lane, int width) {
  return from_lane(value, emulator::lane() / width * width + lane);
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline float max(float a, float b) { return std::fmax(a, b); }
inline float min(float a, float b) { return std::fmin(a, b); }
struct Pointer {
  void *address;
  template <class T> operator T *() const { return static_cast<T *>(address); }
};
"""


def cuda_text(func, target):
    """What TVM compiles for the kernels of a function."""
    load_runtime()
    seen = []

    def take(code, *_):
        seen.append(code)
        return bytearray(b"nothing")

    before = tvm.get_global_func(HOOK)
    tvm_ffi.register_global_func(HOOK, take, override=True)
    try:
        with target:
            tvm.compile(tvm.IRModule({"k": func.with_attr("global_symbol", "k")}), target=target)
    finally:
        tvm_ffi.register_global_func(HOOK, before, override=True)
    return seen[-1]


def grids(func):
    """Extents of blocks and threads of each kernel, in order."""
    found = []

    def collect(loop):
        if loop.thread_binding is not None:
            tag = str(loop.thread_binding.thread_tag)
            if tag.startswith("blockIdx") and (not found or tag in found[-1]):
                found.append({})
            found[-1][tag] = int(loop.extent)

    tvm_ffi.structural_walk(func.body, (tirx.For, collect), order="pre")
    return found


def run_light(func, target, folder, *arrays):
    """Run all kernels of a scheduled function twice; the outputs are the last arrays, in place."""
    text = cuda_text(func, target)
    text = text[text.index('extern "C" __global__') :]
    text = re.sub(r"__shared__ alignas\((\d+)\)", r"alignas(\1) static", text)
    buffers = {str(p.name): a for p, a in zip(func.params, arrays)}
    for buffer in func.body.block.alloc_buffers:
        if buffer.scope() == "global":
            shape = [int(dim) for dim in buffer.shape]
            buffers[str(buffer.name)] = np.full(shape, 77, str(buffer.dtype))
    kernels = sorted(KERNEL.finditer(text), key=lambda match: _number(match.group(1)))
    sizes = grids(func)
    assert len(kernels) == len(sizes)
    names, calls = [], []
    for match, grid in zip(kernels, sizes):
        own = [re.sub(r"_ptr(_\d+)?$", "", part.split()[-1]) for part in match.group(2).split(",")]
        given = ", ".join(f"Pointer{{arrays[{len(names) + i}]}}" for i in range(len(own)))
        names += own
        blocks, threads = (
            ", ".join(str(grid.get(f"{kind}Idx.{axis}", 1)) for axis in "xyz")
            for kind in ("block", "thread")
        )
        calls.append(
            f"  emulator::launch({{{blocks}}}, {{{threads}}}, none, reverse, "
            f"[=] {{ {match.group(1)}({given}); }});\n"
        )
    run = f'extern "C" void run(void **arrays, bool reverse) {{\n{"".join(calls)}}}\n'
    whole = f"{PRELUDE}\n{text}\nstd::vector<uint8_t> none(16);\n{run}"
    path = Path(folder) / f"light_{zlib.crc32(whole.encode()):08x}.cpp"
    path.write_text(whole)
    library = path.with_suffix(".so")
    flags = ["-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-ffp-contract=off", f"-I{EMULATOR}"]
    subprocess.run([*compiler(), *flags, str(path), "-o", str(library)], check=True)
    places = (ctypes.c_void_p * len(names))(*(buffers[name].ctypes.data for name in names))
    results = []
    for reverse in (False, True):
        ctypes.CDLL(str(library)).run(places, ctypes.c_bool(reverse))
        results.append([array.copy() for array in arrays])
    for forward, backward in zip(*results):
        np.testing.assert_array_equal(forward, backward)


def _number(name):
    return int(re.search(r"_kernel(?:_(\d+))?$", name).group(1) or 0)
