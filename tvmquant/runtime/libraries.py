"""TVM's runtime libraries for another processor, out of the published wheels."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

from tvmquant._versions import PINS
from tvmquant.errors import BundleError
from tvmquant.runtime.bundle import elf_architecture
from tvmquant.runtime.toolchain import machine

# Library → the wheel that has it, and where.
LIBRARIES = {
    "libtvm_ffi.so": ("apache-tvm-ffi", "tvm_ffi/lib/libtvm_ffi.so"),
    "libtvm_runtime.so": ("apache-tvm", "tvm/lib/libtvm_runtime.so"),
}
_PUBLISHED = ("aarch64", "x86_64")
_GLIBC = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")


def cache_folder() -> Path:
    """Where downloads are kept: ``$TVMQUANT_CACHE``, by default ``~/.cache/tvmquant``."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("TVMQUANT_CACHE") or base / "tvmquant")


def runtime_libraries(architecture: str, folder: Path | None = None) -> dict[str, Path]:
    """Find the shared libraries that a model needs to run on a Linux machine.

    Parameters
    ----------
    architecture : str
        For example ``aarch64``.
    folder : Path, optional
        Where they lie; by default those of the installed packages if this machine is of the
        architecture, else those of the published wheels of the same versions, which pip downloads
        once into :func:`cache_folder`.

    Returns
    -------
    dict of str to Path
        By file name.

    Raises
    ------
    BundleError
        If they cannot be had, or are for another processor.
    """
    if folder is not None:
        found = {name: folder / name for name in LIBRARIES}
    elif architecture == machine() and sys.platform == "linux":
        found = {name: _installed(*where) for name, where in LIBRARIES.items()}
    else:
        found = _downloaded(architecture)
    for name, path in found.items():
        if not path.is_file():
            raise BundleError(f"there is no {path}: name a folder with {' and '.join(LIBRARIES)}")
        made_for = elf_architecture(path)
        if made_for != architecture:
            raise BundleError(
                f"{path} is for {made_for or 'no Linux machine'}, the model for {architecture}: "
                f"name a folder with the {name} of that architecture"
            )
    return found


def _installed(package: str, member: str) -> Path:
    return Path(str(metadata.distribution(package).locate_file(member)))


def _downloaded(architecture: str) -> dict[str, Path]:
    if architecture not in _PUBLISHED:
        raise BundleError(
            f"TVM publishes no runtime for {architecture}: give --runtime PATH (a folder with its "
            "libraries) or --no-runtime"
        )
    versions = "-".join(PINS[package] for package, _ in LIBRARIES.values())
    folder = cache_folder() / f"runtime-{versions}-{architecture}"
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix="download-") as work:
                made = Path(work) / "libraries"
                made.mkdir()
                for name, (package, member) in LIBRARIES.items():
                    wheel = _download(package, architecture, Path(work) / package)
                    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
                        (made / name).write_bytes(source.read())
                _keep(made, folder)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise BundleError(
                f"cannot fetch the runtime for {architecture}: {error}; give --runtime PATH or "
                "--no-runtime"
            ) from None
    return {name: folder / name for name in LIBRARIES}


def _download(package: str, architecture: str, folder: Path) -> Path:
    """Wheel of the pinned version; pip checks its hash."""
    platforms = [part for name in _GLIBC for part in ("--platform", f"{name}_{architecture}")]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", *platforms]
    # The libraries are the same for every Python: any that has a wheel will do.
    command += ["--python-version", "3.11", "--implementation", "cp"]
    command += ["--dest", str(folder), f"{package}=={PINS[package]}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl")) if folder.is_dir() else []
    if done.returncode or not wheels:
        lines = done.stderr.strip().splitlines() or ["pip found no wheel"]
        raise BundleError(
            f"cannot download {package} {PINS[package]} for {architecture}: {lines[-1]}; give "
            "--runtime PATH (a folder with its libraries) or --no-runtime"
        )
    return wheels[0]


def _keep(made: Path, folder: Path) -> None:
    try:
        made.rename(folder)
    except OSError:
        # Another process was faster.
        if not folder.is_dir():
            shutil.copytree(made, folder)
