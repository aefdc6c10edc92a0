"""The two halves of measuring on a device: building here, running there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from tvmquant.build import compile_module
from tvmquant.errors import RemoteError
from tvmquant.remote.address import Address
from tvmquant.remote.device import DeviceInfo
from tvmquant.remote.session import Session as Link
from tvmquant.runtime.bundle import canonical
from tvmquant.runtime.gpu import FLUSH
from tvmquant.runtime.link import export_library
from tvmquant.targets.cuda import nearest_arch
from tvmquant.targets.device import Device
from tvmquant.tuning.session import CandidateError, Job, Session, measured, where
from tvmquant.tuning.timing import is_gpu, is_healthy

# A reading of a device that says so is no reading.
_LONGEST = 1e4


@dataclass(frozen=True)
class Answer:
    """What came of a candidate on a device.

    Attributes
    ----------
    kind : str
        ``time``, ``wrong`` (output), ``failed`` (the candidate's fault), or ``lost`` (the device
        is gone, hangs, or talks nonsense).
    seconds : float
        Of one run.
    text : str
        Why there is no time.
    """

    kind: str
    seconds: float = math.nan
    text: str = ""


def answer_to(error: CandidateError) -> Answer:
    """What a candidate that cannot win is told."""
    wrong = str(error).startswith("wrong output")
    return Answer("wrong" if wrong else "failed", text=str(error))


class BuildSession(Session):
    """Builds for another machine; as its base class, it builds and runs for this one, too."""

    def compile(self, job: Job, library: str) -> None:
        """Write the shared library of a candidate.

        Raises
        ------
        CandidateError, BundleError
            If it cannot be built, or not linked.
        """
        executable = compile_module(job.program().functions, job.device)
        export_library(executable, Path(library), job.device.architecture)


class BoardSession:
    """A session on a device, one candidate after the other."""

    def __init__(self) -> None:
        self._link: Link | None = None

    def open(self, address: Address, key: str, timeout: float, threads: int, device: Device) -> str:
        """Connect, and return the name of the device: of its GPU, if it is to be used.

        Raises
        ------
        RemoteError
            If it cannot be reached, or is not what it should be.
        """
        self.close()
        self._link = Link(address, key, timeout)
        info = self._link.info
        if info is not None:
            _check_kind(address, info, device)
        configure = self._link.function("runtime.config_threadpool")
        current = self._link.function("runtime.NumThreads")
        if configure is not None and current is not None:
            with self._link.talking("set its threads"):
                configure(1, threads)
                used = int(current())
            if used < threads:
                raise RemoteError(f"{address} has {used} threads, {threads} are wanted")
        if info is None:
            return "unnamed device"
        return info.cpu if device.cuda is None else info.gpu

    def run(self, job: Job, library: str, best: float) -> Answer:
        """Send a candidate, run it once, check its output, and time it.

        Parameters
        ----------
        job : Job
            Its reference must exist.
        library : str
            What :meth:`BuildSession.compile` wrote.
        best : float
            As in :meth:`tvmquant.tuning.session.Session.time`.
        """
        link, path = self._link, Path(library)
        if link is None:
            return Answer("lost", text="no connection")
        device = where(job.device, link.rpc)
        try:
            flush = FLUSH if is_gpu(device) and link.function(FLUSH) is not None else ""
            module = link.load(path)
            with link.talking("run a kernel"):
                seconds = measured(job, module, device, best, flush)
            link.remove(path.name)
        except CandidateError as error:
            return answer_to(error)
        except RemoteError as error:
            sick = link.lost or (is_gpu(device) and not is_healthy(device))
            return Answer("lost" if sick else "failed", text=str(error))
        if not 0 < seconds < _LONGEST:
            return Answer("lost", text=f"{link.address} answers with times that make no sense")
        return Answer("time", seconds)

    def close(self) -> None:
        """End the session."""
        link, self._link = self._link, None
        if link is not None:
            link.close()


def _check_kind(address: Address, info: DeviceInfo, device: Device) -> None:
    """Whether code for ``device`` can run there."""
    there = canonical(info.machine)
    if there != device.architecture:
        raise RemoteError(
            f"{address} is {there}, {device.name} is {device.architecture}: give its --target"
        )
    if device.cuda is not None:
        _check_gpu(address, info, device)
        return
    lacking = sorted(device.features - set(info.features)) if info.features else []
    if lacking:
        raise RemoteError(
            f"{address} ({info.cpu}) lacks {', '.join(lacking)}: give another --target"
        )


def _check_gpu(address: Address, info: DeviceInfo, device: Device) -> None:
    wanted = device.cuda_archs[0]
    if not info.gpu:
        raise RemoteError(f"{address} has no NVIDIA GPU, or no driver: give another address")
    there = nearest_arch(info.gpu_arch).name
    if there != wanted:
        raise RemoteError(
            f"{address} has a GPU of {info.gpu_arch} ({info.gpu}), not of {wanted}: give --target "
            f"cuda-{there}"
        )
    if device.gpu not in ("", info.gpu):
        raise RemoteError(
            f"{address} has an {info.gpu}, the others an {device.gpu}: tune for each apart"
        )
