"""Measuring a batch of candidates on several devices, some of which may fail.

A device is trusted as long as it runs a small kernel of known output right: it does so first, and
again whenever a candidate's output is wrong or its connection is lost. A candidate that loses two
sessions is at fault itself, and so is one whose output two devices find wrong.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from tvmquant.errors import RemoteError
from tvmquant.tuning.boards import Board, Boards
from tvmquant.tuning.remote_session import Answer
from tvmquant.tuning.session import Job

_LOSSES = 2

T = TypeVar("T")


@dataclass(eq=False)
class Trial:
    """A candidate on its way.

    Attributes
    ----------
    number : int
    job : Job
    library : str
        Path of its shared library.
    answer : Answer or None
        ``None`` as long as no device gave one.
    losses : int
        Sessions that ended while it ran.
    wrong_at : Board or None
        A device that found its output wrong.
    """

    number: int
    job: Job
    library: str
    answer: Answer | None = None
    losses: int = 0
    wrong_at: Board | None = None


class Referee:
    """Knows which devices can be trusted.

    Parameters
    ----------
    boards : Boards
    proof : Trial
        What a device must get right.
    """

    def __init__(self, boards: Boards, proof: Trial) -> None:
        self._boards, self._proof = boards, proof
        self._proved: set[Board] = set()

    def trusts(self, board: Board) -> bool:
        """Whether a device may measure; it is tried once a session."""
        return board in self._boards.alive and (board in self._proved or self.tries(board))

    def tries(self, board: Board) -> bool:
        """Try a device (again); it is dropped if it fails."""
        self._proved.discard(board)
        answer = self._run(board)
        if answer.kind == "lost":
            try:
                board.reopen()
                answer = self._run(board)
            except RemoteError as error:
                answer = Answer("lost", text=str(error))
        if answer.kind == "time":
            self._proved.add(board)
            return True
        text = answer.text or "no answer"
        if answer.kind == "wrong":
            text = f"{board.address} computes wrong values"
        self._boards.drop(board, text)
        return False

    def _run(self, board: Board) -> Answer:
        return board.run(self._proof.job, self._proof.library, math.inf)


class Round:
    """One batch.

    Parameters
    ----------
    boards : Boards
    referee : Referee
    trials : iterable of Trial
        Get their answers; those that no device is left for keep ``None``.
    """

    def __init__(self, boards: Boards, referee: Referee, trials: Iterable[Trial]) -> None:
        self._boards, self._referee = boards, referee
        self._waiting = list(trials)
        self._running = 0
        self._best = math.inf
        self._changed = threading.Condition()

    def run(self) -> None:
        """Measure until every candidate has an answer or no device is left."""
        while self._waiting and self._boards.alive:
            together(self._serve, list(self._boards.alive), self._boards.close)

    def _serve(self, board: Board) -> None:
        """Let a device measure until nothing waits or it is dropped."""
        while self._referee.trusts(board):
            trial = self._take(board)
            if trial is None:
                return
            answer, good = Answer("lost", text="interrupted"), False
            try:
                answer = board.run(trial.job, trial.library, self._best)
                good = answer.kind in ("time", "failed") or self._referee.tries(board)
            finally:
                with self._changed:
                    self._running -= 1
                    self._note(board, trial, answer, good)
                    self._changed.notify_all()

    def _take(self, board: Board) -> Trial | None:
        with self._changed:
            while board in self._boards.alive:
                alone = len(self._boards) == 1
                for trial in self._waiting:
                    if alone or trial.wrong_at is not board:
                        self._waiting.remove(trial)
                        self._running += 1
                        return trial
                if not self._running:
                    return None
                # Another device may fail and leave its candidate to this one.
                self._changed.wait(1)
        return None

    def _note(self, board: Board, trial: Trial, answer: Answer, good: bool) -> None:
        """Decide what an answer means; ``good`` says whether the device can be trusted."""
        again = False
        if answer.kind == "lost":
            trial.losses += 1
            again = trial.losses < _LOSSES or not self._boards.alive
            answer = Answer("failed", text=f"lost the device twice: {answer.text}")
        elif answer.kind == "wrong":
            # The device was at fault, or another one shall say whether it was. A device that was
            # dropped in the meantime has no say, whatever it got right since.
            good = good and board in self._boards.alive
            again = not good or (trial.wrong_at is None and len(self._boards) > 1)
            trial.wrong_at = board if good else trial.wrong_at
        elif answer.kind == "time":
            self._best = min(self._best, answer.seconds)
            if trial.wrong_at is not None:
                self._boards.drop(trial.wrong_at, f"{trial.wrong_at.address} computes wrong values")
        if again:
            self._waiting.append(trial)
        else:
            trial.answer = answer


def together(work: Callable[[T], None], items: Iterable[T], stop: Callable[[], None]) -> None:
    """Run ``work`` on every item in a thread of its own; the threads wait for processes.

    Parameters
    ----------
    work : callable
    items : iterable
    stop : callable
        Ends those processes; called when one ``work`` fails, and on Ctrl-C.
    """
    items = list(items)
    if not items:
        return
    with ThreadPoolExecutor(len(items)) as executor:
        try:
            list(executor.map(work, items))
        except BaseException:
            stop()
            raise
