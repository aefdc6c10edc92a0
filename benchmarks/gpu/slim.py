"""TVM's runtime and other engines' wheels for a machine that has neither."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import tvm

from tvmquant._versions import PINS

LIBRARIES = ("libtvm_runtime.so", "libtvm_runtime_extra.so", "libtvm_runtime_cuda.so")
PEERS = ("torchao", "gemlite")
# Of the package tvm_ffi: what C++ programs need, and its tests.
_LEFT_OUT = ("include/", "3rdparty/", "src/", "share/", "testing/", "stub/", "cython/", "cpp/src")
_PLATFORMS = ("manylinux_2_28", "manylinux_2_24", "manylinux_2_17", "manylinux2014")
_FFI, _NEEDED = "apache-tvm-ffi", "typing-extensions"


def write_runtime(folder: Path, python: str) -> None:
    """``lib`` with TVM's libraries and ``site`` with the package ``tvm_ffi``.

    Parameters
    ----------
    folder : Path
    python : str
        Version of Python on the other machine, for example ``3.12``.

    Raises
    ------
    RuntimeError
        If pip cannot get a wheel.
    """
    libraries, site = folder / "lib", folder / "site"
    for path in (libraries, site):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    for name in LIBRARIES:
        shutil.copyfile(Path(tvm.__file__).parent / "lib" / name, libraries / name)
    downloads = folder / "downloads"
    for name, version in ((_FFI, PINS[_FFI]), (_NEEDED, metadata.version(_NEEDED))):
        if python == f"{sys.version_info.major}.{sys.version_info.minor}":
            _copy(metadata.distribution(name), site)
        else:
            _unpack(download(f"{name}=={version}", downloads, python), site)
    shutil.rmtree(downloads, ignore_errors=True)


def _wanted(name: str) -> bool:
    return not name.partition("/")[2].startswith(_LEFT_OUT) and "__pycache__" not in name


def _copy(installed: metadata.Distribution, site: Path) -> None:
    for file in installed.files or ():
        if _wanted(str(file)) and ".." not in file.parts:
            target = site / str(file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(file.locate()), target)


def _unpack(wheel: Path, site: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in filter(_wanted, archive.namelist()):
            archive.extract(name, site)


def write_peers(folder: Path, python: str) -> list[str]:
    """Wheels of other engines, without what they need; returns why one is missing.

    One that is there already is kept.
    """
    missing = []
    there = {wheel.name.partition("-")[0] for wheel in folder.glob("*.whl")}
    for name in (name for name in PEERS if name not in there):
        try:
            download(name, folder, python)
        except RuntimeError as error:
            missing.append(str(error))
    return missing


def download(requirement: str, folder: Path, python: str) -> Path:
    """Wheel for Linux on x86-64, by pip; built where a project only publishes its sources.

    Raises
    ------
    RuntimeError
        If there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.glob("*.whl"))
    pip = [sys.executable, "-m", "pip"]
    quiet = ["--quiet", "--no-deps", "--no-input", "--disable-pip-version-check"]
    platforms = [part for name in _PLATFORMS for part in ("--platform", f"{name}_x86_64")]
    one = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp", *platforms]
    commands = (
        [*pip, "download", *quiet, *one, "--dest", str(folder), requirement],
        # From sources only what is pure Python is of use elsewhere.
        [*pip, "wheel", *quiet, "--wheel-dir", str(folder), requirement],
    )
    told = ""
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = sorted(set(folder.glob("*.whl")) - before)
        if done.returncode == 0 and wheels and _fits(wheels[0], command is commands[0]):
            return wheels[0]
        told = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
    raise RuntimeError(f"cannot get a wheel of {requirement}: {told}")


def _fits(wheel: Path, downloaded: bool) -> bool:
    if downloaded or wheel.stem.endswith("none-any"):
        return True
    wheel.unlink()
    return False
