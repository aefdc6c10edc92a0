"""Turning what ``tvm.compile`` returned into a shared library."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tvmquant.errors import BundleError

# No symbol table, and segments back to back: a third of a small model would be padding.
_OPTIONS = ["-s", "-Wl,-z,noseparate-code"] if sys.platform == "linux" else []


def export_library(executable: Any, path: Path) -> None:
    """Link ``executable`` into the shared library ``path``.

    gcc or clang (or ``$CXX``, ``$CC``) does it, else the ``ziglang`` package.

    Raises
    ------
    BundleError
        If there is no linker.
    OSError, RuntimeError
        If linking or writing fails, for example on a full disk.
    """
    from tvm.support import cc

    if cc.get_cc() is not None:
        how: dict[str, Any] = {"options": list(_OPTIONS)}
    elif importlib.util.find_spec("ziglang") is not None:
        how = {"fcompile": _zig_link}
    else:
        raise BundleError(
            "cannot link the library: there is no C compiler; install gcc or clang, or run "
            "python -m pip install ziglang"
        )
    with (
        tempfile.TemporaryDirectory(prefix="link-", dir=path.parent) as work,
        _objects_in_memory(Path(work)),
    ):
        executable.export_library(str(path), workspace_dir=work, **how)


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


def _zig_link(output: str, objects: Sequence[str], **_options: Any) -> None:
    command = [sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-s", "-o", output]
    done = subprocess.run([*command, *objects], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"zig cc failed: {done.stderr.strip()}")
