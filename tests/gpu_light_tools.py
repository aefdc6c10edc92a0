"""Whole functions and modules of a GPU on the CPU: the CUDA text that TVM makes, emulated."""

import ctypes
import re
import subprocess
import zlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import tvm
import tvm_ffi
from cuda_tools import EMULATOR, compiler, guarded
from tvm import relax, s_tir, tirx

from tvmquant.build_cuda import load_runtime
from tvmquant.graph import Graph, const_value, name_of
from tvmquant.schedules.cuda.source import header

HOOK = "tvm_callback_cuda_compile"
KERNEL = re.compile(r'extern "C" __global__ void(?: __launch_bounds__\(\d+\))? (\w+)\(([^)]*)\) \{')
# What TVM's own text needs besides, as the programming guide has it.
PRELUDE = """
#include "ptx.cuh"
#include "wgmma.cuh"
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
inline uint8_t *dynamic_shared;
inline std::vector<uint8_t> &begin(int64_t bytes) {
  static std::vector<uint8_t> memory;
  memory.assign(bytes + 2048, 0);
  const auto first = reinterpret_cast<uintptr_t>(memory.data());
  emulator::shared_first = dynamic_shared = memory.data() + (1024 - first % 1024);
  emulator::shared_bytes = bytes;
  return memory;
}
"""


class Emulated:
    """The kernels in a CUDA text, compiled for the CPU."""

    def __init__(self, text, folder):
        own = [header(path.name) for path in files("tvmquant").joinpath("assets/cuda").iterdir()]
        starts = [text.find(start) for start in (*own, 'extern "C" __global__')]
        text = text[min(at for at in starts if at >= 0) :]
        for name in ("ptx.cuh", "wgmma.cuh"):
            text = text.replace(header(name), "")
        text = re.sub(
            r"extern __shared__ \S+ uchar (\w+)\[\];", r"uchar *\1 = dynamic_shared;", text
        )
        text = re.sub(r"__shared__ alignas\((\d+)\)", r"alignas(\1) static", text)
        self.kernels, calls = {}, []
        for match in KERNEL.finditer(text):
            name, given = match.groups()
            self.kernels[name] = [
                re.sub(r"_ptr(_\d+)?$", "", part.split()[-1]) for part in given.split(",")
            ]
            places = ", ".join(f"Pointer{{a[{i}]}}" for i in range(given.count(",") + 1))
            calls.append(
                f'extern "C" void run_{name}(void **a, unsigned *n, int64_t bytes, bool reverse) {{'
                f"emulator::launch({{n[0], n[1], n[2]}}, {{n[3], n[4], n[5]}}, begin(bytes), "
                f"reverse, [=] {{ {name}({places}); }}); }}\n"
            )
        whole = f"{PRELUDE}\n{text}\n{''.join(calls)}"
        path = Path(folder) / f"emulated_{zlib.crc32(whole.encode()):08x}.cpp"
        path.write_text(whole)
        flags = ["-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-ffp-contract=off"]
        command = [*compiler(), *flags, f"-I{EMULATOR}", path, "-o", path.with_suffix(".so")]
        subprocess.run(command, check=True)
        self.library = ctypes.CDLL(str(path.with_suffix(".so")))

    def call(self, name, func, *arrays, reverse=False):
        """Run all kernels of a scheduled function; its outputs are the last arrays, in place."""
        buffers, checks = [(str(p.name), a) for p, a in zip(func.params, arrays)], []
        shared = 0
        for buffer in _allocated(func):
            shape, dtype = [int(dim) for dim in buffer.shape], str(buffer.dtype)
            if buffer.scope() == "global":
                memory, check = guarded(shape, dtype)
                buffers.append((str(buffer.name), memory))
                checks.append(check)
            elif buffer.scope() == "shared.dyn":
                shared = max(shared, shape[0])
        kernels = [k for k in self.kernels if re.fullmatch(rf"{re.escape(name)}_kernel(_\d+)?", k)]
        kernels.sort(key=lambda kernel: int(kernel.removeprefix(f"{name}_kernel")[1:] or 0))
        sizes = _sizes(func)
        assert len(kernels) == len(sizes)
        for at, (kernel, size) in enumerate(zip(kernels, sizes)):
            given = []
            for wanted in self.kernels[kernel]:
                # Several outputs may have one name: each has a kernel then, in their order.
                found = [array for own, array in buffers if own == wanted]
                given.append(found[min(at, len(found) - 1)].ctypes.data)
            numbers = [size.get(f"{k}Idx.{axis}", 1) for k in ("block", "thread") for axis in "xyz"]
            getattr(self.library, f"run_{kernel}")(
                (ctypes.c_void_p * len(given))(*given),
                (ctypes.c_uint * 6)(*numbers),
                ctypes.c_int64(shared),
                ctypes.c_bool(reverse),
            )
        for check in checks:
            check()

    def run(self, mod, *inputs, reverse=False):
        """Outputs of ``main`` of a lowered module."""
        graph = Graph(mod)
        values = dict(zip(graph.params, inputs))

        def value_of(expr):
            if isinstance(expr, relax.Tuple):
                return [value_of(field) for field in expr.fields]
            if isinstance(expr, relax.TupleGetItem):
                return values[expr.tuple_value][expr.index]
            return values[expr] if isinstance(expr, relax.Var) else const_value(expr)

        for var, value in graph.bindings:
            if not isinstance(value, relax.Call):
                values[var] = value_of(value)
            elif name_of(value) == "reshape":
                shape = [int(dim) for dim in value.ty.shape.values]
                values[var] = value_of(value.args[0]).reshape(shape)
            else:
                types = value.ty_args[0]
                fields = list(getattr(types, "fields", [types]))
                made = [guarded([int(d) for d in t.shape.values], str(t.dtype)) for t in fields]
                arrays = [*map(np.ascontiguousarray, value_of(value.args[1]))]
                arrays += [array for array, _ in made]
                callee = value.args[0]
                self.call(callee.name_hint, mod[callee], *arrays, reverse=reverse)
                for _, check in made:
                    check()
                outs = [array for array, _ in made]
                values[var] = outs if hasattr(types, "fields") else outs[0]
        return [value_of(output) for output in graph.outputs]


def cuda_text(functions, target):
    """What TVM compiles for the kernels of scheduled functions by name."""
    load_runtime()
    functions = {name: func.with_attr("global_symbol", name) for name, func in functions.items()}
    seen = []

    def take(code, *_):
        seen.append(code)
        return bytearray(b"nothing")

    before = tvm.get_global_func(HOOK)
    tvm_ffi.register_global_func(HOOK, take, override=True)
    try:
        with target:
            tvm.compile(tvm.IRModule(functions), target=target)
    finally:
        tvm_ffi.register_global_func(HOOK, before, override=True)
    return seen[-1]


def run_light(func, target, folder, *arrays):
    """Run a scheduled function, threads in either order; its outputs are the last arrays."""
    emulated, results = Emulated(cuda_text({"k": func}, target), folder), []
    for reverse in (False, True):
        emulated.call("k", func, *arrays, reverse=reverse)
        results.append([array.copy() for array in arrays])
    for forward, backward in zip(*results):
        np.testing.assert_array_equal(forward, backward)


def _allocated(func):
    """Buffers that a function allocates, of any scope."""
    found = []
    callbacks = [
        (s_tir.SBlock, lambda block: found.extend(block.alloc_buffers)),
        (tirx.AllocBuffer, lambda statement: found.append(statement.buffer)),
    ]
    tvm_ffi.structural_walk(func.body, callbacks, order="pre")
    return found


def _sizes(func):
    """Extents of blocks and threads of each kernel of a function, in order."""
    found = []

    def add(tag, extent):
        if tag.startswith("blockIdx") and (not found or tag in found[-1]):
            found.append({})
        found[-1][tag] = int(extent)

    def visit_loop(loop):
        if loop.thread_binding is not None:
            add(str(loop.thread_binding.thread_tag), loop.extent)

    def visit_attribute(statement):
        if statement.attr_key == "thread_extent":
            add(str(statement.node.thread_tag), statement.value)

    callbacks = [(tirx.For, visit_loop), (tirx.AttrStmt, visit_attribute)]
    tvm_ffi.structural_walk(func.body, callbacks, order="pre")
    return found
