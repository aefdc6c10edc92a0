"""The devices of a fleet that take part in tuning: got, tried, dropped, replaced."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tvmquant.errors import InputError, RemoteError
from tvmquant.remote.address import Address
from tvmquant.remote.tracker import TrackerClient
from tvmquant.targets.device import Device
from tvmquant.tuning.pool import Worker, WorkerError
from tvmquant.tuning.remote_session import Answer
from tvmquant.tuning.session import Job

# Beyond the time limits of the connection itself: a client that crashes or hangs is ended.
_MARGIN_SECONDS = 30.0
# A device is free again some seconds after a session that crashed.
_REOPEN_SECONDS = 15.0
_PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class Fleet:
    """Where devices are found.

    Attributes
    ----------
    addresses : tuple of Address
        Devices themselves,
    tracker : Address or None
        or a tracker that knows them.
    key : str
        Kind of device; required with a tracker.
    timeout : float
        Seconds that one answer of a device may take.
    builder : str
        Class of the processes that build here, as ``module:class``.
    """

    addresses: tuple[Address, ...] = ()
    tracker: Address | None = None
    key: str = ""
    timeout: float = 60.0
    builder: str = "tvmquant.tuning.remote_session:BuildSession"

    def __post_init__(self) -> None:
        if bool(self.addresses) == (self.tracker is not None):
            raise InputError("give the addresses of devices or of a tracker, one of them")
        if self.tracker is not None and not self.key:
            raise InputError("a tracker needs a key: say which kind of device, for example rpi4")

    def boards(self, target: Device, threads: int, say: Callable[[str], Any]) -> Boards:
        """The devices; none is asked yet. Parameters as of :class:`Boards`."""
        return Boards(self, target, threads, say)

    def __str__(self) -> str:
        if self.tracker is not None:
            return f"key {self.key!r} at the tracker {self.tracker}"
        return ", ".join(map(str, self.addresses))


class Board:
    """A place for one device, in a process of its own.

    Parameters
    ----------
    fleet : Fleet
    target : Device
        What the device should be.
    threads : int
    address : Address, optional
        Of this device; a tracker chooses one each time otherwise.
    taken : callable
        Whether the device at an address must not be used: it was dropped.
    """

    def __init__(
        self,
        fleet: Fleet,
        target: Device,
        threads: int,
        address: Address | None,
        taken: Callable[[Address], bool],
    ) -> None:
        self.fleet, self.target, self.threads = fleet, target, threads
        self.address = address
        self.name = ""
        self._taken = taken
        self._fixed = address
        self._closed = False
        self._worker = Worker(1, "tvmquant.tuning.remote_session:BoardSession")

    def open(self, wait: float = 0.0) -> None:
        """Connect to a device.

        Parameters
        ----------
        wait : float
            Seconds in which a device that just crashed may come back.

        Raises
        ------
        RemoteError
            If there is none.
        """
        end = time.monotonic() + wait
        while True:
            if self._closed:
                raise RemoteError("closed")
            try:
                # What a tracker grants is lost unless it is used within seconds, and a process
                # may take longer to start.
                self._ask("close")
                address, key = self._choose()
                arguments = (address, key, self.fleet.timeout, self.threads, self.target)
                self.name = self._ask("open", *arguments)
                self.address = address
                return
            except (RemoteError, WorkerError) as error:
                if time.monotonic() >= end:
                    raise RemoteError(str(error).removeprefix("RemoteError: ")) from None
            time.sleep(_PAUSE_SECONDS)

    def reopen(self) -> None:
        """Connect again after a session was lost."""
        self.open(_REOPEN_SECONDS)

    def run(self, job: Job, library: str, best: float) -> Answer:
        """As :meth:`tvmquant.tuning.remote_session.BoardSession.run`; raises nothing."""
        if self._closed:
            return Answer("lost", text="closed")
        try:
            answer = self._ask("run", job, library, best)
        except WorkerError as error:
            if self._worker.alive:
                return Answer("failed", text=str(error))
            return Answer("lost", text=f"the connection's process {error}")
        return answer

    def close(self) -> None:
        """End the session and its process, for good."""
        self._closed = True
        self._worker.close()

    def _choose(self) -> tuple[Address, str]:
        if self.fleet.tracker is None:
            if self._fixed is None:
                raise RemoteError("a board without an address")
            return self._fixed, self.fleet.key
        client = TrackerClient(self.fleet.tracker)
        grant = client.request(self.fleet.key, wait=0)
        if self._taken(grant.address):
            raise RemoteError(f"{grant.address} was dropped before")
        return grant.address, grant.key

    def _ask(self, method: str, *arguments: Any) -> Any:
        # Several answers of the device may be needed for one of the process.
        limit = 4 * self.fleet.timeout + _MARGIN_SECONDS
        return self._worker.ask(method, *arguments, seconds=limit)


class Boards:
    """All devices of a fleet that can be had.

    Parameters
    ----------
    fleet : Fleet
    target : Device
    threads : int
    say : callable
        Gets a line for every device that is dropped.

    Raises
    ------
    RemoteError
        If there is none.
    """

    def __init__(
        self, fleet: Fleet, target: Device, threads: int, say: Callable[[str], Any]
    ) -> None:
        self.fleet, self.target, self.threads = fleet, target, threads
        self.alive: list[Board] = []
        self.dropped: dict[Address, str] = {}
        self._say = say
        self._lock = threading.Lock()
        self._reasons: list[str] = []

    def __len__(self) -> int:
        return len(self.alive)

    def gather(self) -> None:
        """Take all devices that are free, those included that came since the last call.

        Raises
        ------
        RemoteError
            If there is none at all.
        """
        if self.fleet.tracker is None:
            used = {board.address for board in self.alive} | set(self.dropped)
            self._add([a for a in self.fleet.addresses if a not in used])
        else:
            self._gather_from(TrackerClient(self.fleet.tracker))
        if not self.alive:
            why = "; ".join(dict.fromkeys(self._reasons)) or "none is free"
            raise RemoteError(f"no device is left of {self.fleet} ({why})")

    def drop(self, board: Board, why: str) -> None:
        """Use a device no more."""
        with self._lock:
            if board not in self.alive:
                return
            self.alive.remove(board)
            if board.address is not None:
                self.dropped[board.address] = why
            self._reasons.append(why)
        board.close()
        self._say(f"dropped the device {board.address or ''}: {why}")

    def close(self) -> None:
        """End all sessions."""
        for board in self.alive:
            board.close()

    def _gather_from(self, tracker: TrackerClient) -> None:
        try:
            state = tracker.fleet()
        except RemoteError as error:
            self._reasons.append(str(error))
            return
        new = [a for a in state.of(self.fleet.key) if a not in self.dropped]
        free = min(state.free.get(self.fleet.key, 0), len(new) - len(self.alive))
        if not new and not self._reasons:
            self._reasons.append("none is registered")
        self._add([None] * max(0, free))

    def _add(self, addresses: Sequence[Address | None]) -> None:
        def add(address: Address | None) -> None:
            taken = self.dropped.__contains__
            board = Board(self.fleet, self.target, self.threads, address, taken)
            problem = ""
            try:
                board.open()
            except RemoteError as error:
                board.close()
                problem = str(error)
            with self._lock:
                if problem:
                    problems.append(problem)
                    self._reasons.append(problem)
                    if address is not None:
                        self.dropped[address] = problem
                else:
                    self.alive.append(board)

        problems: list[str] = []
        if addresses:
            # Each starts a process, which takes seconds.
            with ThreadPoolExecutor(len(addresses)) as executor:
                list(executor.map(add, addresses))
        for problem in problems:
            self._say(f"a device cannot be used: {problem}")
