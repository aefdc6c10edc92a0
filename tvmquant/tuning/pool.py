"""The worker processes, as seen by the tuner."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tvmquant.tuning.session import Session, Task

# Building one candidate takes well below a second, starting a process some.
_LIMIT_SECONDS = 60.0
_GONE_SECONDS = 30.0


class WorkerError(Exception):
    """A request that failed; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """Result of a candidate: ``seconds``, or ``error``, or neither if it must be tried again."""

    seconds: float | None = None
    error: str = ""


@dataclass
class Worker:
    """One process, started on demand and again after it died.

    Attributes
    ----------
    threads : int
        Threads of its TVM pool.
    session : str
        What answers the requests, as ``module:class``.
    """

    threads: int
    session: str = "tvmquant.tuning.session:Session"
    _process: subprocess.Popen | None = field(default=None, repr=False)

    def ask(self, method: str, *arguments: Any, seconds: float) -> Any:
        """Call a method of the process's session.

        Raises
        ------
        WorkerError
            If it fails, dies, or takes longer than ``seconds``.
        """
        process = self._start()
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, stop)
        timer.daemon = True  # after a Ctrl-C just here nothing would end it before its time
        try:
            timer.start()
            pickle.dump((method, arguments), process.stdin)
            process.stdin.flush()
            done, value = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            self.close()
            why = f"took more than {seconds:.0f} s" if late.is_set() else "crashed"
            code = process.returncode
            detail = f" (signal {-code})" if not late.is_set() and code and code < 0 else ""
            raise WorkerError(f"{why}{detail}") from None
        finally:
            timer.cancel()
        if not done:
            raise WorkerError(value)
        return value

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            process.kill()
        # A driver that hangs may hold a process that was killed.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GONE_SECONDS)
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()

    def _start(self) -> subprocess.Popen:
        if self._process is None or self._process.poll() is not None:
            environment = os.environ | {
                "TVM_NUM_THREADS": str(self.threads),
                "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            }
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tvmquant.tuning.worker", self.session],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                # Ctrl-C is for the tuner, which ends its workers itself.
                start_new_session=True,
            )
        return self._process


class Pool:
    """Builds a batch of candidates on all workers at once, then times them one after another.

    Parameters
    ----------
    workers : int
    threads : int
        Threads that a candidate may use.
    limit : float
        Seconds after which building or timing a candidate is given up.
    """

    def __init__(self, workers: int, threads: int = 1, limit: float = _LIMIT_SECONDS) -> None:
        self.limit = limit
        self._workers = [Worker(threads) for _ in range(workers)]
        self._owner: dict[int, tuple[Worker, int]] = {}
        self._life = {id(worker): 0 for worker in self._workers}
        self._next = 0
        self._closed = False

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_error: Any) -> None:
        self.close()

    def build(self, jobs: Sequence[Task]) -> list[tuple[int, str]]:
        """``(handle, error)`` of each job; the error is empty if it was built and is right."""
        numbers = list(range(self._next, self._next + len(jobs)))
        self._next += len(jobs)
        results = [""] * len(jobs)

        def work(index: int) -> None:
            worker = self._workers[index]
            for i in range(index, len(jobs), len(self._workers)):
                if self._closed:
                    return
                try:
                    worker.ask("build", numbers[i], jobs[i], seconds=self.limit)
                    self._owner[numbers[i]] = worker, self._life[id(worker)]
                except WorkerError as error:
                    results[i] = str(error)
                    self._note_death(worker)

        # Threads only wait for the processes.
        with ThreadPoolExecutor(len(self._workers)) as executor:
            try:
                list(executor.map(work, range(min(len(self._workers), len(jobs)))))
            except BaseException:
                self.close()
                raise
        return list(zip(numbers, results))

    def time(self, handle: int, best: float) -> Outcome:
        """Time a candidate that was built."""
        worker, life = self._owner[handle]
        if life != self._life[id(worker)]:
            return Outcome()  # built by a process that died since
        try:
            return Outcome(worker.ask("time", handle, best, seconds=self.limit))
        except WorkerError as error:
            self._note_death(worker)
            return Outcome(error=str(error))

    def drop(self, handles: Sequence[int]) -> None:
        """Forget candidates."""
        for worker in self._workers:
            owned = [h for h in handles if self._owner.get(h, (None,))[0] is worker]
            if owned:
                with contextlib.suppress(WorkerError):
                    worker.ask("drop", owned, seconds=self.limit)
        for handle in handles:
            self._owner.pop(handle, None)

    def close(self) -> None:
        """End all workers."""
        self._closed = True
        for worker in self._workers:
            worker.close()

    def _note_death(self, worker: Worker) -> None:
        """What a worker that died had built is gone."""
        if not worker.alive:
            self._life[id(worker)] += 1


class InProcess:
    """The interface of :class:`Pool` without processes: for debugging a kernel."""

    def __init__(self) -> None:
        self._session = Session()
        self._next = 0

    def build(self, jobs: Sequence[Task]) -> list[tuple[int, str]]:
        """As :meth:`Pool.build`."""
        results = []
        for job in jobs:
            error = ""
            try:
                self._session.build(self._next, job)
            except Exception as problem:
                error = f"{type(problem).__name__}: {' '.join(str(problem).split())[:300]}"
            results.append((self._next, error))
            self._next += 1
        return results

    def time(self, handle: int, best: float) -> Outcome:
        """As :meth:`Pool.time`."""
        return Outcome(self._session.time(handle, best))

    def drop(self, handles: Sequence[int]) -> None:
        """As :meth:`Pool.drop`."""
        self._session.drop(list(handles))

    def close(self) -> None:
        """Nothing to end."""
