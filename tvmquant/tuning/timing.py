"""How long a run takes: many runs a reading on processors, single ones from memory on GPUs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tvm
from tvm.runtime.device import RPC_SESS_MASK

# One reading takes at least this long, so that the clock does not matter.
_READING = 1e-3
_READINGS = 5
_ROUNDS = 4
# A candidate that much slower than the best is not worth more readings.
_HOPELESS = 1.3
# Of a GPU: runs of a reading, and the seconds that it should not take much longer than.
_RUNS = 24
_LONG_READING = 0.1
_GPU_ROUNDS = 3


def seconds_of(
    module: Any, name: str, args: list[Any], device: Any, best: float, flush: str = ""
) -> float:
    """Seconds of one run: the smallest of several readings.

    On a processor a reading is the median of runs one after the other, with all caches warm.

    On a GPU a run is the time between two events around it, and a reading the mean of the middle
    half of the runs. Before each run ``flush`` copies more memory than any cache holds: so
    weights come from memory, as they do in a network whose other layers ran in between, and the
    GPU is busy while the run is prepared, so that its time has no share of the launch. The
    activations come from memory, too, which is later than in a network.

    Parameters
    ----------
    module : tvm.runtime.Module
    name : str
    args : list of tvm.runtime.Tensor
    device : tvm.runtime.Device
        Where they are.
    best : float
        Time to beat: clearly slower candidates are measured less.
    flush : str
        Name of a global function, where the arguments are, that empties the caches of a GPU; see
        :func:`tvmquant.runtime.gpu.offer_flush`.
    """
    options = {"f_preproc": flush} if flush else {}

    def runs(count: int, repeat: int) -> list[float]:
        timer = module.time_evaluator(name, device, number=count, repeat=repeat, **options)
        return [float(value) for value in timer(*args).results]

    once = max(min(runs(1, 3)), 1e-8)
    if is_gpu(device):
        repeat = max(3, min(_RUNS, math.ceil(_LONG_READING / once)))
        runs(1, repeat)  # clocks rise with the load
        readings = (_middle(runs(1, repeat)) for _ in range(_GPU_ROUNDS))
    else:
        count = max(1, math.ceil(_READING / once))
        readings = (float(np.median(runs(count, _READINGS))) for _ in range(_ROUNDS))
    smallest = math.inf
    for reading in readings:
        smallest = min(smallest, reading)
        if smallest > _HOPELESS * best:
            break
    return smallest


def is_gpu(device: Any) -> bool:
    """Whether a TVM device, here or of another machine, is a CUDA GPU."""
    # A remote device has its session in the upper bits.
    return device.dlpack_device_type() % RPC_SESS_MASK == tvm.cuda().dlpack_device_type()


def is_healthy(device: Any) -> bool:
    """Whether a GPU still answers this process: a bad access spoils CUDA until the process ends.

    Parameters
    ----------
    device : tvm.runtime.Device
        Of this machine or of another one.
    """
    probe = np.arange(64, dtype=np.int32)
    try:
        device.sync()
        return bool(np.array_equal(tvm.runtime.tensor(probe, device).numpy(), probe))
    except Exception:
        return False


def _middle(times: list[float]) -> float:
    """Mean of the middle half: events tick more coarsely than a median of them deserves."""
    quarter = len(times) // 4
    return float(np.mean(sorted(times)[quarter : len(times) - quarter]))
