"""A GPU that is not there: this machine's processor computes the layer, the time is made up."""

import json
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import tvm_ffi

from tvmquant.errors import TargetError
from tvmquant.runtime.gpu import FLUSH
from tvmquant.targets import get_device
from tvmquant.tuning import gpu_session
from tvmquant.tuning.candidates import candidates
from tvmquant.tuning.gpu import LocalGpu
from tvmquant.tuning.record import config_key
from tvmquant.tuning.remote_session import BuildSession

NAME = "Simulated H200"
# Environment: what candidates do by their sizes, and a file that takes the GPU away.
HOW, GONE = "TVMQUANT_TEST_GPU", "TVMQUANT_TEST_GPU_GONE"
HOST = get_device()


def simulated(timeout=60.0):
    """As the GPU of this machine."""
    here = f"{__name__}:"
    return LocalGpu(timeout, here + "SimulatedGpu", here + "SimulatedBuilder")


def seconds_of(config):
    """Made up, and best where the kernels' own model does not look first."""
    off = sum(
        abs(np.log2(config[name] / best)) for name, best in (("block_m", 256), ("block_n", 16))
    )
    splits = config.get("splits", 1)
    return float(1e-5 * (1 + off + 0.4 * abs(config["stages"] - 3)) * (1 + (splits > 1)))


def how(job):
    """How a candidate misbehaves; empty for the good ones."""
    return json.loads(os.environ.get(HOW, "{}")).get(config_key(job.config), "")


def on_this_machine(job):
    default = candidates(job.workload, HOST)[0]
    return replace(job, device=HOST, rule=default.rule, config=default.config)


class SimulatedBuilder(BuildSession):
    """Makes the candidate's kernel, and builds one that this machine can run."""

    def __init__(self):
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._built = {}

    def compile(self, job, library):
        assert job.program().kernel.plan.config == job.config
        if job.workload not in self._built:
            path = Path(self._folder.name, f"{len(self._built)}.so")
            super().compile(on_this_machine(job), str(path))
            self._built[job.workload] = path
        shutil.copy(self._built[job.workload], library)


class SimulatedGpu(gpu_session.GpuSession):
    """What CUDA does to a process is done here by hand."""

    def __init__(self):
        self._poisoned = False
        gpu_session.is_healthy = lambda device: not self._poisoned
        self._measured = gpu_session.measured
        gpu_session.measured = self._measure

    def open(self, device):
        assert device.cuda is not None
        if os.environ.get(GONE) and Path(os.environ[GONE]).exists():
            raise TargetError("it fell off the bus")
        tvm_ffi.register_global_func(FLUSH, lambda *arguments: None, override=True)
        return NAME

    def run(self, job, library, best):
        self._how = how(job)
        if self._how == "crash":
            os.abort()
        if self._how == "hang":
            time.sleep(600)
        if self._how == "gone":
            Path(os.environ[GONE]).touch()
            os.abort()
        answer = super().run(on_this_machine(job), library, best)
        return replace(answer, seconds=seconds_of(job.config)) if answer.kind == "time" else answer

    def _measure(self, job, module, device, best, flush):
        self._poisoned |= self._how == "poison"
        if self._poisoned:
            raise RuntimeError("CUDA: an illegal memory access was encountered")
        if self._how == "launch":
            raise RuntimeError("CUDA: too many resources requested for launch")
        if self._how == "wrong":
            with np.load(job.reference) as reference:
                job = replace(job, reference=str(Path(job.reference).with_name("other.npz")))
                np.savez(job.reference, reference["arr_0"] + 1)
        assert flush == FLUSH
        return self._measured(job, module, device, best, flush)
