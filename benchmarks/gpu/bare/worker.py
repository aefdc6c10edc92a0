"""A process that does jobs, and is replaced when one of them ends it or its GPU context."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# Seconds to start, at most and however short the first job may be, and to end when it is killed.
_START, _LEAST, _END = 120.0, 60.0, 20.0


class WorkerError(Exception):
    """The process ended, took too long, or lost its GPU.

    Attributes
    ----------
    rows : list of dict
        What it had done by then; the last of them may be wrongly accused.
    """

    def __init__(self, reason: str, rows: list[dict[str, Any]] | None = None) -> None:
        super().__init__(reason)
        self.rows = rows or []


class StartError(WorkerError):
    """The process cannot begin: no other one would."""


class Worker:
    """Another process of ``measure.py``.

    Parameters
    ----------
    command : list of str
        What starts it; it reads a job a line and answers each with a line.
    """

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    def run(self, job: dict[str, Any], seconds: float) -> list[dict[str, Any]]:
        """Rows of a job.

        Raises
        ------
        WorkerError
            If the process ended, did not answer in time, or the GPU does not answer it any
            more; the next job gets a new one.
        StartError
            If there is no GPU, or the runtime cannot be loaded.
        """
        if self._process is None:
            self._start(min(_START, max(seconds, _LEAST)))
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._lost("ended") from None
        answer = self._answer(seconds)
        if not answer["healthy"]:
            self.stop()
            raise WorkerError("its GPU context was lost", answer["rows"])
        return answer["rows"]

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            # A process that waits for its GPU may not end, and is left behind.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None

    def _start(self, seconds: float) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(self._command, **pipes)
        self._rest = b""
        answer = self._answer(seconds)
        if "error" in answer:
            self.stop()
            raise StartError(answer["error"])

    def _answer(self, seconds: float) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        descriptor, end = self._process.stdout.fileno(), time.monotonic() + seconds
        while b"\n" not in self._rest:
            left = end - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise self._lost(f"no answer within {seconds:.0f} s")
            piece = os.read(descriptor, 1 << 16)
            if not piece:
                code = self._process.wait()
                raise self._lost(f"the process ended with {code}")
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def _lost(self, reason: str) -> WorkerError:
        self.stop()
        return WorkerError(reason)


def serve(work: Path, runtime: Path, cuda: bool) -> None:
    """Do the jobs on standard input, until it ends."""
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    from . import runtime as runtimes
    from .timing import told

    try:
        device = runtimes.open_device(runtimes.load(runtime, cuda), cuda)
        from . import jobs

        jobs.wheels(work / "peers")
    except Exception as error:
        answer(error=told(error))
        return
    answer(device=device.name)
    for line in sys.stdin:
        job = json.loads(line)
        try:
            rows = jobs.run(device, job, work)
        except Exception as error:
            rows = [
                {"part": job["part"], "name": job["name"], "contender": "", "error": told(error)}
            ]
        answer(rows=rows, healthy=jobs.healthy(device))
