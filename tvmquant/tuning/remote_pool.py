"""Candidates built here and measured on devices, as many at once as there are devices.

The GPU of this machine is such a device, too.
"""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tvmquant.errors import RemoteError
from tvmquant.schedules.workload import Workload
from tvmquant.targets.device import Device, get_device
from tvmquant.tuning.boards import Fleet
from tvmquant.tuning.candidates import candidates
from tvmquant.tuning.gpu import LocalGpu
from tvmquant.tuning.pool import Outcome, Worker, WorkerError
from tvmquant.tuning.round import Referee, Round, Trial, together
from tvmquant.tuning.session import Job

_BUILD_SECONDS = 120.0
# A large layer takes a processor long.
_REFERENCE_SECONDS = 900.0
# Candidates a device and batch.
_SHARE = 4
# What a device must compute right to be trusted.
_PROOF = Workload("matmul", (6, 32), (48, 32))


class RemoteTuningWarning(UserWarning):
    """A device was dropped."""


class RemotePool:
    """The interface of :class:`tvmquant.tuning.pool.Pool`, over the devices of a fleet.

    Parameters
    ----------
    fleet : Fleet or LocalGpu
    device : Device
        What the devices are.
    workers : int
        Processes that build here.
    threads : int
        Threads that a candidate may use there.

    Attributes
    ----------
    device : Device
        The same; of GPUs with the name of theirs.

    Raises
    ------
    RemoteError
        If there is no device, or nothing can be built for it.
    """

    def __init__(
        self,
        fleet: Fleet | LocalGpu,
        device: Device,
        workers: int,
        threads: int = 1,
    ) -> None:
        self.device = device
        self._builders = [Worker(1, fleet.builder) for _ in range(workers)]
        self._folder = tempfile.TemporaryDirectory(prefix="tvmquant-remote-")
        self._trials: dict[int, Trial] = {}
        self._timed: set[int] = set()
        self._next = 0
        self._closed = False
        self._boards = fleet.boards(device, threads, _warn)
        try:
            self._boards.gather()
            self._name_gpu()
            self._referee = Referee(self._boards, self._make_proof())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RemotePool:
        return self

    def __exit__(self, *_error: Any) -> None:
        self.close()

    @property
    def batch(self) -> int:
        """How many candidates keep all devices and builders busy."""
        return max(_SHARE * len(self._boards), len(self._builders))

    def build(self, jobs: Sequence[Job]) -> list[tuple[int, str]]:
        """As :meth:`Pool.build`; the candidates are measured as well.

        Raises
        ------
        RemoteError
            If no device is left.
        """
        self._boards.gather()
        trials = [self._trial(job) for job in jobs]
        try:
            self._make_references(jobs)
            errors = self._compile(trials)
            built = [trial for trial, error in zip(trials, errors) if not error]
            Round(self._boards, self._referee, built).run()
        except BaseException:
            self.close()
            raise
        for i, trial in enumerate(trials):
            if trial.answer is not None and trial.answer.kind in ("wrong", "failed"):
                errors[i] = trial.answer.text
        return [(trial.number, error) for trial, error in zip(trials, errors)]

    def time(self, handle: int, best: float) -> Outcome:
        """Seconds of a candidate: those of :meth:`build` at first, then measured again.

        What is measured again is measured on one device, so that it compares.
        """
        trial = self._trials[handle]
        answer = trial.answer
        if handle in self._timed and self._boards.alive:
            board = self._boards.alive[0]
            answer = board.run(trial.job, trial.library, best)
            if answer.kind in ("lost", "wrong"):
                self._referee.tries(board)
                return Outcome()
        self._timed.add(handle)
        if answer is None:
            return Outcome()  # no device was left for it: to be tried again
        return Outcome(answer.seconds) if answer.kind == "time" else Outcome(error=answer.text)

    def drop(self, handles: Sequence[int]) -> None:
        """Forget candidates."""
        for handle in handles:
            trial = self._trials.pop(handle, None)
            if trial is not None:
                Path(trial.library).unlink(missing_ok=True)

    def close(self) -> None:
        """End all sessions and processes."""
        self._closed = True
        self._boards.close()
        for worker in self._builders:
            worker.close()
        self._folder.cleanup()

    def _name_gpu(self) -> None:
        """Times of different GPUs do not compare: only the most frequent model takes part."""
        if self.device.cuda is None:
            return
        names = Counter(board.name for board in self._boards.alive)
        ((name, _),) = names.most_common(1)
        self.device = self._boards.target = replace(self.device, gpu=name)
        for board in list(self._boards.alive):
            if board.name != name:
                self._boards.drop(board, f"it has an {board.name}, the others an {name}")

    def _trial(self, job: Job) -> Trial:
        number, self._next = self._next, self._next + 1
        trial = Trial(number, job, str(Path(self._folder.name, f"kernel{number}.so")))
        self._trials[number] = trial
        return trial

    def _make_references(self, jobs: Sequence[Job]) -> None:
        """Outputs that do not come from a device: this machine's own kernel makes them."""
        for job in jobs:
            if Path(job.reference).exists():
                continue
            host = get_device("host")
            default = candidates(job.workload, host)[0]
            known = replace(job, device=host, rule=default.rule, config=default.config)
            try:
                self._builders[0].ask("build", -1, known, seconds=_REFERENCE_SECONDS)
                self._builders[0].ask("drop", [-1], seconds=_BUILD_SECONDS)
            except WorkerError as error:
                raise RemoteError(
                    f"this machine cannot compute {job.workload.op} itself ({error})"
                ) from None

    def _make_proof(self) -> Trial:
        reference = str(Path(self._folder.name, "proof.npz"))
        default = candidates(_PROOF, self.device)[0]
        job = Job(_PROOF, self.device, default.rule, default.config, reference)
        self._make_references([job])
        trial = self._trial(job)
        (error,) = self._compile([trial])
        if error:
            raise RemoteError(f"cannot build for {self.device.name}: {error}")
        return trial

    def _compile(self, trials: Sequence[Trial]) -> list[str]:
        """Build all at once; the error of each."""
        errors = [""] * len(trials)

        def work(first: int) -> None:
            for i in range(first, len(trials), len(self._builders)):
                if self._closed:
                    return
                arguments = trials[i].job, trials[i].library
                try:
                    self._builders[first].ask("compile", *arguments, seconds=_BUILD_SECONDS)
                except WorkerError as error:
                    errors[i] = str(error)

        together(work, range(min(len(self._builders), len(trials))), self.close)
        return errors


def _warn(text: str) -> None:
    warnings.warn(text, RemoteTuningWarning, stacklevel=2)
