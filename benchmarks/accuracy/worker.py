"""What a process of the pool starts with: nothing here loads a library that starts threads."""

from __future__ import annotations

import os
from typing import Any


def limit_threads() -> None:
    """One thread a process; read when the libraries start."""
    for name in ("TVM_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"


def measure(task: Any) -> dict[str, Any]:
    """``benchmarks.accuracy.run.measure``."""
    from benchmarks.accuracy.run import measure as run

    return run(task)
