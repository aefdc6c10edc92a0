"""Building aarch64 programs and libraries on another machine."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.emulated_pi import Unavailable, cache_folder, lock

_HERE = Path(__file__).resolve().parent


def cross_compile(arguments: Sequence[str | Path]) -> None:
    """Run an aarch64 C compiler: a cross gcc if there is one, else the ``ziglang`` package.

    Raises
    ------
    Unavailable
        If there is neither.
    """
    gcc = shutil.which("aarch64-linux-gnu-gcc")
    if gcc:
        command = [gcc]
    elif importlib.util.find_spec("ziglang"):
        command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu.2.28"]
    else:
        raise Unavailable("no cross compiler: python -m pip install ziglang")
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name}: {done.stderr.strip()}")


def link(output: str, objects: Sequence[str], **_options: Any) -> None:
    """``fcompile`` of TVM's ``export_library``: link ``objects`` into an aarch64 library."""
    try:
        cross_compile(["-shared", "-fPIC", "-nostdlib", "-Wl,-z,undefs", "-o", output, *objects])
    except RuntimeError:
        cross_compile(["-shared", "-fPIC", "-o", output, *objects])


def build_program(source: str) -> Path:
    """An aarch64 program of one C file of this folder; built once, kept in the tests' cache."""
    path = _HERE / source
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    program = cache_folder() / f"{path.stem}-{digest}"
    with lock(program.with_suffix(".lock")):
        if not program.is_file():
            made = program.with_suffix(".tmp")
            cross_compile(["-O2", "-rdynamic", "-o", made, path, "-ldl"])
            made.rename(program)
    return program
