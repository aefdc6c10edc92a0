"""A process that builds and times candidates: jobs on stdin, answers on stdout, both pickled.

A process of its own, because a bad candidate may crash, hang or take all memory. The argument
``module:class`` says whose methods are called.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from typing import Any, BinaryIO


def main() -> None:
    """Answer requests ``(method, arguments)`` of that class until stdin ends."""
    answers = os.fdopen(os.dup(1), "wb")
    # Whatever prints to stdout must not come between the answers.
    os.dup2(2, 1)
    module, _, name = sys.argv[1].partition(":")
    session = getattr(importlib.import_module(module), name)()
    serve(session, sys.stdin.buffer, answers)


def serve(session: object, requests: BinaryIO, answers: BinaryIO) -> None:
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
