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
MISTAKES = {
    "no proxy fence": ("fence_async();", ""),
    "slots start anywhere": ("shared += -shared_address(shared) & 1023;", ""),
    "slots are read before they are full": ("copy_wait<AHEAD - 1>();", "copy_wait<AHEAD>();"),
    "slots are filled while they are read": ("AHEAD = S::STAGES - 2;", "AHEAD = S::STAGES;"),
    "registers are not fenced": ("wgmma_fence();\n", ""),
    "registers change under way": ("wgmma_wait<1>();", "wgmma_wait<2>();"),
    "sums are read before they are there": ("wgmma_wait<0>();", ""),
    "another step of K": ("* 2;\n#pragma", "* 4;\n#pragma"),
}


# How a process ends: the output is right, or wrong; or the emulator stops it.
RIGHT, WRONG, STOPPED = 0, 7, -signal.SIGABRT


def run(source, reverse, folder):
    """Process that runs the kernel with this source."""
    faulthandler.disable()
    kernel = warpgroup_kernel(LAYER, HOPPER).with_config(SIZES)
    kernel.__dict__["launch"] = dataclasses.replace(kernel.launch, source=source)
    data = make_data(LAYER, 1)
    got = run_kernel(kernel, folder, *data, reverse=reverse)
    os._exit(RIGHT if np.array_equal(got, expected(LAYER, *data)) else WRONG)


def noticed(source, folder):
    for reverse in (False, True):
        process = multiprocessing.get_context("fork").Process(
            target=run, args=(source, reverse, folder)
        )
        process.start()
        process.join(120)
        assert process.exitcode in (RIGHT, WRONG, STOPPED)
        if process.exitcode != RIGHT:
            return True
    return False


@pytest.mark.parametrize("mistake", [None, *MISTAKES])
def test_mistakes_are_noticed(mistake, tmp_path):
    source = warpgroup_kernel(LAYER, HOPPER).with_config(SIZES).launch.source
    if mistake:
        right, instead = MISTAKES[mistake]
        assert source.count(right) >= 1
        source = source.replace(right, instead)
    assert noticed(source, tmp_path) == (mistake is not None)
