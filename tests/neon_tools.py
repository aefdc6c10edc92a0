"""Runs kernels on an emulated ARM processor: one static program for many kernels.

Kernels are linked with a C program of a hundred lines, which calls them through the C interface
of tvm-ffi; no TVM library is needed on the other side, so a run takes milliseconds.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tvm
from kernel_tools import expected, make_data

from tvmquant.schedules.workload import Workload
from tvmquant.targets import Device, get_device

QEMU = shutil.which("qemu-aarch64")
needs_emulator = pytest.mark.skipif(
    QEMU is None or find_spec("ziglang") is None,
    reason="needs qemu-aarch64 (Debian: qemu-user) and ziglang",
)
TRIPLE = "aarch64-linux-gnu"
PROCESSORS = {
    "neon": ("cortex-a72", []),
    "neon_dotprod": ("cortex-a76", []),
    "neon_i8mm": ("cortex-a76", ["+i8mm"]),
}
_EMULATED = {"neon": "cortex-a72", "neon_dotprod": "cortex-a76", "neon_i8mm": "max"}

_MAIN = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
typedef struct { void *data; int32_t device, id; int32_t ndim; uint8_t code, bits; uint16_t lanes;
                 int64_t *shape, *strides; uint64_t byte_offset; } Tensor;
typedef struct { int32_t type, zero; void *value; } Any;
typedef int Function(void *self, const Any *args, int32_t count, Any *result);
typedef struct { void *sync; int32_t tasks; } Environment;
typedef int Task(int id, Environment *environment, void *data);
int launch(Task *task, void *data, int tasks) {
  int n = tasks > 0 ? tasks : 1;
  Environment environment = {0, n};
  for (int i = 0; i < n; i++) if (task(i, &environment, data)) return 1;
  return 0;
}
void *allocate(int device, int id, uint64_t size, int code, int bits) {
  return aligned_alloc(64, (size + 127) / 64 * 64);
}
int release(int device, int id, void *memory) { free(memory); return 0; }
void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *text) {
  fprintf(stderr, "%s: %s\n", kind, text);
}
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  for (int i = 0; i < count; i++) fprintf(stderr, "%s", parts[i]);
}
extern int (*__TVMBackendParallelLaunch)(Task *, void *, int);
extern void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int);
extern int (*__TVMBackendFreeWorkspace)(int, int, void *);
#pragma weak __TVMBackendParallelLaunch
#pragma weak __TVMBackendAllocWorkspace
#pragma weak __TVMBackendFreeWorkspace
DECLARATIONS
static Function *functions[] = {FUNCTIONS};
static int32_t number(void) { int32_t n; if (fread(&n, 4, 1, stdin) != 1) exit(9); return n; }
int main(void) {
  if (&__TVMBackendParallelLaunch) __TVMBackendParallelLaunch = launch;
  if (&__TVMBackendAllocWorkspace) __TVMBackendAllocWorkspace = allocate;
  if (&__TVMBackendFreeWorkspace) __TVMBackendFreeWorkspace = release;
  int count = number();
  Tensor *tensors = calloc(count, sizeof(Tensor));
  size_t *sizes = calloc(count, sizeof(size_t));
  for (int i = 0; i < count; i++) {
    Tensor *t = tensors + i;
    t->device = 1; t->lanes = 1; t->code = number(); t->bits = number(); t->ndim = number();
    t->shape = calloc(t->ndim, 8);
    size_t size = t->bits / 8;
    for (int j = 0; j < t->ndim; j++) size *= (t->shape[j] = number());
    char *memory = aligned_alloc(64, (size + 255) / 64 * 64);
    memset(memory, 0xA5, size + 128);
    t->data = memory + 64; sizes[i] = size;
    if (fread(t->data, 1, size, stdin) != size) return 8;
  }
  for (int calls = number(); calls > 0; calls--) {
    Function *function = functions[number()];
    Any args[32] = {0}, result = {0};
    int n = number();
    for (int i = 0; i < n; i++) { args[i].type = 7; args[i].value = tensors + number(); }
    if (function(0, args, n, &result)) return 7;
  }
  for (int i = 0; i < count; i++) {
    char *data = tensors[i].data;
    for (int j = 0; j < 64; j++)
      if (data[j - 64] != (char)0xA5 || data[sizes[i] + j] != (char)0xA5) {
        fprintf(stderr, "wrote outside of tensor %d\n", i); return 6;
      }
    fwrite(data, 1, sizes[i], stdout);
  }
  return 0;
}
"""


def arm_device(isa: str) -> Device:
    """Device of an instruction set."""
    cpu, features = PROCESSORS[isa]
    return get_device({"kind": "llvm", "mtriple": TRIPLE, "mcpu": cpu, "mattr": features})


@dataclass
class Program:
    """Kernels of one instruction set, and calls of them, to be run at once."""

    isa: str
    functions: dict[str, object] = field(default_factory=dict)
    tensors: list[np.ndarray] = field(default_factory=list)
    calls: list[tuple[str, list[int]]] = field(default_factory=list)

    def tensor(self, values: np.ndarray) -> int:
        """Add a tensor; its number."""
        self.tensors.append(np.ascontiguousarray(values))
        return len(self.tensors) - 1

    def call(self, function: object, tensors: list[int]) -> None:
        """Add a call of a PrimFunc."""
        name = str(function.attrs["global_symbol"])
        self.functions.setdefault(name, function)
        self.calls.append((name, tensors))

    def kernel(
        self, kernel: object, x: np.ndarray, constants: list, qinfo: np.ndarray, *others: np.ndarray
    ) -> int:
        """Add a kernel with its expansion; the number of the output."""
        workload = kernel.workload
        numbers = [self.tensor(values) for values in constants]
        expansion = kernel.expansion() if hasattr(kernel, "expansion") else None
        if expansion is not None:
            made = [self.tensor(np.zeros(shape, dtype)) for shape, dtype in expansion.outputs]
            self.call(expansion.func, [*numbers[: expansion.inputs], *made])
            numbers = [*made, *numbers[expansion.inputs :]]
        out = self.tensor(np.zeros(workload.out_shape, workload.out_dtype))
        more = [self.tensor(values) for values in (qinfo, *others)]
        self.call(kernel.prim_func(), [self.tensor(x), *numbers, *more, out])
        return out

    def build(self, folder: Path) -> Path:
        """Link the program."""
        module = tvm.compile(tvm.IRModule(self.functions), target=arm_device(self.isa).target)
        objects, source, program = folder / "k.o", folder / "main.c", folder / "program"
        module.mod.write_to_file(str(objects), "o")
        symbols = [f"__tvm_ffi_{name}" for name in self.functions]
        text = _MAIN.replace("DECLARATIONS", "".join(f"Function {s};\n" for s in symbols))
        source.write_text(text.replace("FUNCTIONS", ", ".join(symbols)))
        zig = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl"]
        subprocess.run([*zig, "-O1", "-static", "-o", program, source, objects], check=True)
        return program

    def input(self) -> bytes:
        """What the program reads."""
        order = list(self.functions)
        parts = [struct.pack("<i", len(self.tensors))]
        for values in self.tensors:
            code = {"i": 0, "u": 1, "f": 2}[values.dtype.kind]
            head = [code, 8 * values.itemsize, values.ndim, *values.shape]
            parts += [struct.pack(f"<{len(head)}i", *head), values.tobytes()]
        parts.append(struct.pack("<i", len(self.calls)))
        for name, numbers in self.calls:
            head = [order.index(name), len(numbers), *numbers]
            parts.append(struct.pack(f"<{len(head)}i", *head))
        return b"".join(parts)

    def run(self, folder: Path, *options: str) -> list[np.ndarray]:
        """All tensors after all calls."""
        program = self.build(folder)
        done = subprocess.run(
            [QEMU, "-cpu", _EMULATED[self.isa], *options, program],
            input=self.input(),
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr.decode()
        found, at = [], 0
        for values in self.tensors:
            part = np.frombuffer(done.stdout, values.dtype, values.size, at)
            found.append(part.reshape(values.shape))
            at += values.nbytes
        return found


def assembly(function: object, isa: str) -> str:
    """Assembly of a PrimFunc."""
    target = arm_device(isa).target
    return tvm.compile(tvm.IRModule({"k": function}), target=target).mod.inspect_source("asm")


def inner_loop(function: object, isa: str, mnemonic: str) -> list[list[str]]:
    """Instructions of the basic block with the most ``mnemonic``, split into words."""
    blocks: list[list[list[str]]] = [[]]
    for line in assembly(function, isa).splitlines():
        words = line.replace(",", " ").split()
        if not words or words[0].startswith((".p2align", "//")):
            continue
        if words[0].endswith(":") and words[0].startswith(".Ltmp"):
            continue  # of the debugger
        if words[0].endswith(":"):
            blocks.append([])
        elif not words[0].startswith("."):
            blocks[-1].append(words)
            if words[0].startswith(("b.", "cb", "tbz", "tbnz")) or words[0] == "b":
                blocks.append([])
    return max(blocks, key=lambda block: sum(w[0].startswith(mnemonic) for w in block))


def conv(n, h, w, c, o, kernel, strides=(1, 1), padding=(0, 0, 0, 0), **more):
    """Workload of a convolution."""
    dilation, groups = more.pop("dilation", (1, 1)), more.pop("groups", 1)
    shape = (o, *kernel, c // groups)
    return Workload("conv2d", (n, h, w, c), shape, strides, padding, dilation, groups, **more)


def check(isa, kernels, folder, seed=0, extreme=False):
    """Run all kernels in one program."""
    program, wanted = Program(isa), {}
    for i, kernel in enumerate({kernel.name: kernel for kernel in kernels}.values()):
        x, w, bias, params, qinfo = data = make_data(kernel.workload, seed + i, extreme)
        number = program.kernel(kernel, x, kernel.pack(w, bias, params), qinfo)
        wanted[number] = (kernel.name, expected(kernel.workload, *data))
    got = program.run(folder)
    for number, (name, values) in wanted.items():
        np.testing.assert_array_equal(got[number], values, err_msg=name)
