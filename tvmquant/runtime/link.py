"""Turning what ``tvm.compile`` returned into a shared library."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tvmquant.errors import BundleError

# No symbol table, and segments back to back: a third of a small model would be padding.
_OPTIONS = ["-s", "-Wl,-z,noseparate-code"]


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
    # Object files go beside the result: what fills up is then the disk that the user named.
    with tempfile.TemporaryDirectory(prefix="link-", dir=path.parent) as work:
        executable.export_library(str(path), workspace_dir=work, **how)


def _zig_link(output: str, objects: Sequence[str], **_options: Any) -> None:
    command = [sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-s", "-o", output]
    done = subprocess.run([*command, *objects], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"zig cc failed: {done.stderr.strip()}")
