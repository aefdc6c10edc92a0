"""Kernels of several launches: scratch memory, order, and what TVM's host code makes of them."""

import dataclasses
import faulthandler
import multiprocessing
import os
import re
import shutil
import signal

import numpy as np
import pytest
import tvm
from cuda_tools import aligned, emulated, run_arrays

from tvmquant.build import compile_module
from tvmquant.runtime.link import export_library
from tvmquant.schedules.cuda.launch import Launch, program
from tvmquant.schedules.cuda.source import header
from tvmquant.targets import get_device

COUNT = 200
SHARED = "tirx.use_dyn_shared_memory"
DOUBLED = """#include <stdint.h>
__device__ void doubled(const uint8_t *x, int *sums, uint8_t *shared) {
  const int at = blockIdx.x * 32 + threadIdx.x;
  if (at < 200) sums[at] = 2 * x[at];
}
"""
TURNED = """#include <stdint.h>
__device__ void turned(const int *sums, const int *more, int *out, uint8_t *shared) {
  const int at = blockIdx.z * 64 + threadIdx.x;
  if (at < 200) out[at] = sums[199 - at] + more[at];
}
"""


EARLY = """
__device__ void early(const uint8_t *x, const int *weights, int *out, uint8_t *shared) {
  const int at = threadIdx.x, mistake = weights[0];
  if (mistake == 1) out[at] = weights[at];
  int before = mistake == 2 ? x[at] : 0;
  tvmquant::launch_next();
  if (mistake != 3 || at != 40) tvmquant::launch_wait();
  if (mistake != 3) before = x[at];
  out[at] = before + weights[at];
}
"""


class TwoLaunches:
    """Kernel whose second launch reads what all blocks of the first one wrote."""

    arguments = (
        ("x", (COUNT,), "uint8"),
        ("more", (COUNT,), "int32"),
        ("out", (COUNT,), "int32"),
    )
    scratch = (("sums", (COUNT,), "int32"),)
    launches = (
        Launch("doubled", DOUBLED, (7, 1, 1), 32, 0, ("x", "sums")),
        Launch("turned", TURNED, (1, 1, 4), 64, 48, ("sums", "more", "out")),
    )


def test_launches_run_in_order_with_memory_between_them(tmp_path):
    random = np.random.default_rng(0)
    x = random.integers(0, 256, COUNT).astype(np.uint8)
    more = random.integers(-99, 99, COUNT).astype(np.int32)
    got = run_arrays(TwoLaunches(), tmp_path, aligned(x), aligned(more))
    np.testing.assert_array_equal(got, 2 * x[::-1].astype(np.int32) + more)


@pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
def test_the_host_takes_memory_from_the_pool_of_the_gpu():
    kernel = TwoLaunches()
    func = program("both", kernel.launches, kernel.arguments, kernel.scratch)
    mod = compile_module(tvm.IRModule({"both": func}), get_device("cuda-sm_80")).mod
    host = mod.inspect_source("ll")
    # Device type 2 is CUDA; the size is that of the scratch memory.
    taken = re.findall(r"ptr %\d+\(i32 (\d+), i32 %\w+, i64 (\d+), ", host)
    assert ("2", str(4 * COUNT)) in taken
    code = host[host.index("@both_compute_(i32") :]
    order = re.findall(
        r"load ptr, ptr @__(TVMBackend\w+Workspace)|@.tvm_func.(both_kernel\w*)", code
    )
    # Handles of functions are looked up once or read: each name may come twice.
    assert list(dict.fromkeys(a or b for a, b in order)) == [
        "TVMBackendAllocWorkspace",
        "both_kernel",
        "both_kernel_1",
        "TVMBackendFreeWorkspace",
    ]
    source = mod.imports[0].inspect_source("cuda")
    assert re.search(r"both_kernel\(.*\) \{[^}]*doubled\(", source)
    assert re.search(r"both_kernel_1\(.*\) \{[^}]*turned\(", source)


def run_early(folder, mistake):
    faulthandler.disable()
    source = header("ptx.cuh") + EARLY
    launch = Launch("early", source, (1, 1, 1), 64, 0, ("x", "weights", "out"), early=True)
    weights, out = (aligned(np.zeros(64, np.int32)) for _ in range(2))
    weights[0] = mistake
    emulated(launch, folder)(aligned(np.arange(64).astype(np.uint8)), weights, out)
    os._exit(0 if (out[1:] == np.arange(1, 64)).all() else 1)


@pytest.mark.parametrize("mistake", ["none", "writes", "reads", "a thread does not wait"])
def test_a_launch_that_starts_early_has_to_wait(mistake, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()  # one library for all
    number = ["none", "writes", "reads", "a thread does not wait"].index(mistake)
    run = multiprocessing.get_context("fork").Process(target=run_early, args=(folder, number))
    run.start()
    run.join(120)
    assert run.exitcode == (-signal.SIGABRT if number else 0)


@pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
def test_launches_that_may_start_early_say_so(tmp_path):
    """What TVM's runtime goes by when it launches: their names and tags are in the library."""
    early, late = (dataclasses.replace(each, early=False) for each in TwoLaunches.launches)
    early = dataclasses.replace(early, early=True, resident=2)
    func = program("both", (early, late), TwoLaunches.arguments, TwoLaunches.scratch)
    built = compile_module(tvm.IRModule({"both": func}), get_device("cuda-sm_90"))
    source = built.mod.imports[0].inspect_source("cuda")
    assert re.search(r"__launch_bounds__\(32, 2\) both_kernel\(", source)
    assert re.search(r"__launch_bounds__\(64\) both_kernel_1\(", source)
    library = tmp_path / "both.so"
    export_library(built, library)
    words = [word.decode() for word in re.findall(rb"[\w.]{9,}", library.read_bytes())]
    tag = words.index("tirx.use_programtic_dependent_launch")
    assert words[tag - 2 : tag + 2] == ["blockIdx.z", "threadIdx.x", words[tag], SHARED]
    assert words.count(words[tag]) == 1
    # Of the two kernels it is the first one.
    assert [w for w in words[:tag] if w.startswith("both_kernel")][-1] == "both_kernel"
