"""The GPU of this machine as the only device of a fleet: one process at a time uses it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvmquant.errors import RemoteError
from tvmquant.targets.device import Device
from tvmquant.tuning.pool import Worker, WorkerError
from tvmquant.tuning.remote_session import Answer
from tvmquant.tuning.session import Job

# Packing the weights of a large layer and comparing its output are part of it.
_LIMIT_SECONDS = 60.0


@dataclass(frozen=True)
class LocalGpu:
    """Where to measure: as :class:`tvmquant.tuning.boards.Fleet`.

    Attributes
    ----------
    timeout : float
        Seconds after which a candidate hangs.
    session, builder : str
        Classes of the processes that measure and that build, as ``module:class``.
    """

    timeout: float = _LIMIT_SECONDS
    session: str = "tvmquant.tuning.gpu_session:GpuSession"
    builder: str = "tvmquant.tuning.remote_session:BuildSession"

    def boards(self, target: Device, threads: int, say: Callable[[str], Any]) -> GpuBoards:
        """As :meth:`tvmquant.tuning.boards.Fleet.boards`."""
        return GpuBoards(GpuBoard(self, target), say)


class GpuBoard:
    """The GPU, by way of a process that is replaced when it dies, hangs, or loses the GPU."""

    address = "the GPU of this machine"

    def __init__(self, gpu: LocalGpu, target: Device) -> None:
        self.name = ""
        self._gpu, self._target = gpu, target
        self._worker = Worker(1, gpu.session)
        self._usable = self._closed = False

    def open(self) -> None:
        """Start the process.

        Raises
        ------
        RemoteError
            If it cannot use the GPU.
        """
        self._worker.close()
        if self._closed:
            raise RemoteError("closed")
        try:
            self.name = self._worker.ask("open", self._target, seconds=self._gpu.timeout)
        except WorkerError as error:
            raise RemoteError(str(error).removeprefix("TargetError: ")) from None
        self._usable = True

    reopen = open

    def run(self, job: Job, library: str, best: float) -> Answer:
        """As :meth:`tvmquant.tuning.boards.Board.run`."""
        if not self._usable:
            return Answer("lost", text="its process has ended")
        try:
            answer = self._worker.ask("run", job, library, best, seconds=self._gpu.timeout)
        except WorkerError as error:
            answer = Answer("failed" if self._worker.alive else "lost", text=str(error))
        if answer.kind == "lost":
            self._usable = False
            self._worker.close()
        return answer

    def close(self) -> None:
        """End the process, for good."""
        self._closed, self._usable = True, False
        self._worker.close()


class GpuBoards:
    """The one GPU, as :class:`tvmquant.tuning.boards.Boards`.

    Parameters
    ----------
    board : GpuBoard
    say : callable
        Gets a line when the GPU is given up.
    """

    def __init__(self, board: GpuBoard, say: Callable[[str], Any]) -> None:
        self.alive: list[GpuBoard] = []
        self.target = board._target
        self._new: list[GpuBoard] = [board]
        self._say = say
        self._why = ""

    def __len__(self) -> int:
        return len(self.alive)

    def gather(self) -> None:
        """Open the GPU at the first call.

        Raises
        ------
        RemoteError
            If it cannot be used, or was given up.
        """
        for board in self._new:
            board.open()
            self.alive.append(board)
        self._new = []
        if not self.alive:
            raise RemoteError(f"the GPU of this machine cannot be used any more ({self._why})")

    def drop(self, board: GpuBoard, why: str) -> None:
        """Use the GPU no more."""
        if board in self.alive:
            self.alive.remove(board)
            self._why = why
            board.close()
            self._say(f"gave up the GPU: {why}")

    def close(self) -> None:
        """End its process."""
        for board in (*self.alive, *self._new):
            board.close()
