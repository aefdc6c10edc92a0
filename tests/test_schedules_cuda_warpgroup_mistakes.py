"""The emulator notices what would go wrong on a GPU: each kernel here has one mistake."""

import dataclasses
import faulthandler
import multiprocessing
import os
import signal

import numpy as np
import pytest
from cuda_tools import run_kernel
from kernel_tools import expected, make_data
from test_schedules_cuda import conv
from test_schedules_cuda_warpgroup import HOPPER

from tvmquant.schedules.cuda.warpgroup import warpgroup_kernel

LAYER = conv((1, 6, 6, 96), 24, (3, 3))
SIZES = {
    "block_m": 64,
    "block_n": 64,
    "block_k": 128,
    "warp_m": 32,
    "warp_n": 64,
    "stages": 4,
    "source": "registers",
}
FENCE = "fence_async();\n"
# By whether a warpgroup feeds the others: what is right in the source, and the mistake.
MISTAKES = {
    "no proxy fence": (0, "copy_wait<AHEAD - 1>();\n    " + FENCE, "copy_wait<AHEAD - 1>();\n"),
    "slots start anywhere": (0, "shared += -shared_address(shared) & 1023;", ""),
    "slots are read before they are full": (0, "copy_wait<AHEAD - 1>();", "copy_wait<AHEAD>();"),
    "slots are filled while they are read": (0, "AHEAD = S::STAGES - 2;", "AHEAD = S::STAGES;"),
    "registers are not fenced": (0, "wgmma_fence();\n", ""),
    "registers change under way": (0, "wgmma_wait<1>();", "wgmma_wait<2>();"),
    "sums are read before they are there": (0, "wgmma_wait<0>();", ""),
    "another step of K": (0, "* 2;\n#pragma", "* 4;\n#pragma"),
    "no proxy fence of producers": (1, FENCE + "      barrier_arrive", "barrier_arrive"),
    "slots are announced too early": (1, "copy_wait<LAG>();", "copy_wait<LAG + 1>();"),
    "nobody waits for free slots": (1, "if (iteration >= S::STAGES) barrier", "if (0) barrier"),
    "slots are freed under way": (1, "empty + (iteration - 1) %", "empty + iteration %"),
    "weights are not counted": (1, "barrier_init(full + slot, 128 + 1)", "barrier_init(full, 128)"),
}


# How a process ends: the output is right, or wrong; or the emulator stops it.
RIGHT, WRONG, STOPPED = 0, 7, -signal.SIGABRT


def make(producers):
    return warpgroup_kernel(LAYER, HOPPER).with_config({**SIZES, "producers": producers})


def run(kernel, source, reverse, folder):
    """Process that runs the kernel with this source."""
    faulthandler.disable()
    kernel.__dict__["launch"] = dataclasses.replace(kernel.launch, source=source)
    data = make_data(LAYER, 1)
    got = run_kernel(kernel, folder, *data, reverse=reverse)
    os._exit(RIGHT if np.array_equal(got, expected(LAYER, *data)) else WRONG)


def noticed(kernel, source, folder):
    for reverse in (False, True):
        process = multiprocessing.get_context("fork").Process(
            target=run, args=(kernel, source, reverse, folder)
        )
        process.start()
        process.join(120)
        assert process.exitcode in (RIGHT, WRONG, STOPPED)
        if process.exitcode != RIGHT:
            return True
    return False


@pytest.mark.parametrize("producers", [0, 1])
def test_without_mistakes_it_is_right(producers, tmp_path):
    kernel = make(producers)
    assert not noticed(kernel, kernel.launch.source, tmp_path)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_noticed(mistake, tmp_path):
    producers, right, instead = MISTAKES[mistake]
    kernel = make(producers)
    assert right in kernel.launch.source
    assert noticed(kernel, kernel.launch.source.replace(right, instead), tmp_path)
