"""Turning what ``tvm.compile`` returned into a shared library."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tvmquant.runtime.toolchain import SMALL, find_toolchain, machine


def export_library(executable: Any, path: Path, architecture: str | None = None) -> None:
    """Link ``executable`` into the shared library ``path``.

    gcc or clang (or ``$CXX``, ``$CC``) does it, else the ``ziglang`` package; for another
    architecture than this machine's its own gcc, else again ``ziglang``.

    Parameters
    ----------
    executable : tvm.relax.VMExecutable
    path : Path
    architecture : str, optional
        What ``executable`` was compiled for, this machine's by default.

    Raises
    ------
    BundleError
        If there is no linker.
    OSError, RuntimeError
        If linking or writing fails, for example on a full disk.
    """
    from tvm.support import cc

    architecture = architecture or machine()
    if architecture == machine() and cc.get_cc() is not None:
        how: dict[str, Any] = {"options": list(SMALL) if sys.platform == "linux" else []}
    else:
        how = {"fcompile": find_toolchain(architecture).link_shared}
    with (
        tempfile.TemporaryDirectory(prefix="link-", dir=path.parent) as work,
        _objects_in_memory(Path(work)),
    ):
        executable.export_library(str(path), workspace_dir=work, **how)


def export_objects(executable: Any, folder: Path) -> list[Path]:
    """Write the object files of ``executable`` to ``folder``, to link them into a program."""
    found: list[Path] = []

    def collect(_output: str, objects: list[str], **_options: Any) -> None:
        found.extend(map(Path, objects))

    executable.export_library(str(folder / "model"), workspace_dir=str(folder), fcompile=collect)
    return found


@contextmanager
def _objects_in_memory(work: Path) -> Iterator[None]:
    """Let the object files that TVM writes to ``work`` land in memory (Linux).

    LLVM ends the whole process when it cannot write an object file, so a full disk would leave a
    half-written folder and no message. The linker, a process of its own, merely fails.
    """
    opened = []
    try:
        if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
            for name in ("devc.o", *(f"lib{index}.o" for index in range(8))):
                opened.append(os.memfd_create(name))
                (work / name).symlink_to(f"/proc/{os.getpid()}/fd/{opened[-1]}")
        yield
    finally:
        for descriptor in opened:
            os.close(descriptor)
