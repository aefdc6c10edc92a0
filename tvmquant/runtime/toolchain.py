"""C compilers: the one of this machine, and the ones that make code for another."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tvmquant.errors import BundleError
from tvmquant.runtime.bundle import canonical

# What GNU and zig call an architecture. The oldest glibc that TVM's own wheels ask for is 2.28.
_GNU = {"arm": "arm-linux-gnueabihf"}
_GLIBC = "2.28"

# No symbol table, and segments back to back: a third of a small model would be padding.
SMALL = ("-s", "-Wl,-z,noseparate-code")


@dataclass(frozen=True)
class Toolchain:
    """A C compiler that also links.

    Attributes
    ----------
    name : str
        What a person would call it, for example ``zig cc``.
    command : tuple of str
        The command and the options that every call needs.
    small : tuple of str
        Options that leave out of a file what running does not need.
    """

    name: str
    command: tuple[str, ...]
    small: tuple[str, ...] = SMALL

    def run(self, *arguments: str | os.PathLike[str]) -> None:
        """Call it.

        Raises
        ------
        RuntimeError
            With what it printed, if it fails.
        """
        command = [*self.command, *map(os.fspath, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{self.name} failed: {done.stderr.strip()}")

    def link_shared(self, output: str, objects: Sequence[str], **_options: object) -> None:
        """Link object files into a shared library; has the form of TVM's ``fcompile``."""
        # -lm: kernels of float operators call expf and its like.
        self.run("-shared", "-fPIC", *self.small, "-o", output, *objects, "-lm")


def machine() -> str:
    """Architecture of this machine."""
    return canonical(platform.machine())


def find_toolchain(architecture: str) -> Toolchain:
    """C compiler for Linux on ``architecture``: ``x86_64``, ``aarch64``, ``arm`` and so on.

    An installed gcc or clang is used where there is one, else the ``ziglang`` package, which can
    make code for any of them.

    Raises
    ------
    BundleError
        If there is none; the message says what to install.
    """
    gnu = _GNU.get(architecture, f"{architecture}-linux-gnu")
    native = architecture == machine() and sys.platform == "linux"
    names = [os.environ.get("CC", ""), "gcc", "clang", "cc"] if native else [f"{gnu}-gcc"]
    for name in filter(None, names):
        path = shutil.which(name)
        if path is not None:
            return Toolchain(Path(path).name, (path,))
    if importlib.util.find_spec("ziglang") is not None:
        command = (sys.executable, "-m", "ziglang", "cc", "-target", f"{gnu}.{_GLIBC}")
        return Toolchain("zig cc", command, small=("-s",))
    raise BundleError(
        f"cannot link for {architecture}: neither {names[-1]} nor zig is installed; run "
        "python -m pip install ziglang"
    )
