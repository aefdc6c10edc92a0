"""How many threads TVM's pool uses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import tvm

from tvmquant.errors import InputError


def pool_size() -> int:
    """Threads of TVM's pool: fixed when it starts, by ``TVM_NUM_THREADS``."""
    text = os.environ.get("TVM_NUM_THREADS", "1")
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"TVM_NUM_THREADS must be a number of at least 1, got {text!r}")
    return int(text)


@contextmanager
def use_threads(threads: int | None) -> Iterator[int]:
    """Run the body with ``threads`` threads (``None``: all of the pool), then restore.

    Raises
    ------
    InputError
        If the pool is smaller than ``threads``.
    """
    current = tvm.get_global_func("runtime.NumThreads")
    # The first call starts the pool: what it holds now is what it can ever hold.
    before = int(current())
    wanted = threads if threads is not None else pool_size()
    configure = tvm.get_global_func("runtime.config_threadpool")
    if wanted < 1:
        raise InputError(f"threads must be at least 1, got {wanted}")
    try:
        configure(1, wanted)
        if threads is not None and int(current()) < wanted:
            raise InputError(
                f"cannot use {wanted} threads, the pool has {int(current())}: start with "
                f"TVM_NUM_THREADS={wanted} on a machine with that many cores"
            )
        yield int(current())
    finally:
        configure(1, before)
