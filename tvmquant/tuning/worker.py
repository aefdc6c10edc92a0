"""A process that builds and times candidates: jobs on stdin, answers on stdout, both pickled.

A process of its own, because a bad candidate may crash, hang or take all memory.
"""

from __future__ import annotations

import os
import pickle
import sys
from typing import Any, BinaryIO

from tvmquant.tuning.session import Session


def main() -> None:
    """Answer requests ``(method, arguments)`` of a :class:`Session` until stdin ends."""
    answers = os.fdopen(os.dup(1), "wb")
    # Whatever prints to stdout must not come between the answers.
    os.dup2(2, 1)
    serve(Session(), sys.stdin.buffer, answers)


def serve(session: Session, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer each request with ``(ok, value or message)``."""
    while True:
        try:
            method, arguments = pickle.load(requests)
        except EOFError:
            return
        answer: tuple[bool, Any]
        try:
            answer = True, getattr(session, method)(*arguments)
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            answer = False, f"{type(error).__name__}: {text}" if text else type(error).__name__
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    main()
