"""The emulator of a GPU notices what a GPU would do wrong, or a memory checker there would find."""

import faulthandler
import multiprocessing
import os
import signal

import numpy as np
import pytest
from cuda_tools import aligned, emulated

from tvmquant.schedules.cuda.launch import Launch
from tvmquant.schedules.cuda.source import header

# Two warps; each has a word of x, and the output is what the other one has.
KERNEL = """
struct alignas(8) Two { unsigned words[2]; };
__device__ void mistaken(const uint8_t *x, const int *which, uint8_t *out, uint8_t *shared) {
  const int at = threadIdx.x, other = at ^ 32, mistake = which[0];
  const unsigned *const words = reinterpret_cast<const unsigned *>(x);
  unsigned *const mine = reinterpret_cast<unsigned *>(shared) + at;
  const unsigned *const theirs = reinterpret_cast<const unsigned *>(shared) + other;
  unsigned *const to = reinterpret_cast<unsigned *>(out);
  tvmquant::copy_async<4>(mine, words + (mistake == 1 ? at + 1 : at));
  tvmquant::copy_commit();
  if (mistake == 2) *mine = 0;
  if (mistake != 3) tvmquant::copy_wait<0>();
  if (mistake != 4) __syncthreads();
  unsigned got = *theirs;
  if (mistake == 5) got = words[at + 64 * (at == 63)];
  if (mistake == 6) got = words[at - 64 * (at == 0)];
  if (mistake == 7) got = theirs[64];
  if (mistake == 8) got = reinterpret_cast<const Two *>(x + 4)->words[0];
  if (mistake == 9) *mine = got;
  if (mistake == 10) const_cast<unsigned *>(words)[at] = got;
  if (mistake == 11) to[at ^ 1] = got;
  if (mistake == 12) to[at + 64 * (at == 63)] = got;
  if (mistake == 13) tvmquant::copy_async<4>(mine, words + at), tvmquant::copy_commit();
  to[at] = got;
}
"""
MISTAKES = (
    "a copy reads behind its buffer",
    "the destination of a copy is written",
    "nobody waits for a copy",
    "no barrier before another warp reads",
    "a read behind a buffer",
    "a read before a buffer",
    "shared memory is read that nobody wrote",
    "a vector is not aligned",
    "what another warp reads is overwritten",
    "an input is written",
    "two threads write the same word",
    "a write behind the output",
    "a copy is under way at the end",
)


def run(folder, mistake, reverse):
    """Process that runs the kernel with one mistake."""
    faulthandler.disable()
    launch = Launch("mistaken", header("ptx.cuh") + KERNEL, (1, 1, 1), 64, 512)
    x = aligned(np.random.default_rng(0).integers(0, 256, 256).astype(np.uint8))
    out = aligned(np.zeros(256, np.uint8))
    emulated(launch, folder, reverse=reverse)(x, aligned(np.array([mistake], np.int32)), out)
    meant = np.roll(x.view(np.uint32), 32)
    os._exit(0 if np.array_equal(out.view(np.uint32), meant) else 1)


def ended(*arguments):
    """How the process ends."""
    process = multiprocessing.get_context("fork").Process(target=run, args=arguments)
    process.start()
    process.join(120)
    return process.exitcode


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kernels")


@pytest.mark.parametrize("reverse", [False, True])
def test_without_mistakes_it_runs(reverse, folder):
    assert ended(folder, 0, reverse) == 0


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_stop_it(mistake, reverse, folder):
    traps = (-signal.SIGILL, -signal.SIGTRAP)  # by processor
    expected = traps if "aligned" in mistake else (-signal.SIGABRT,)
    assert ended(folder, 1 + MISTAKES.index(mistake), reverse) in expected
