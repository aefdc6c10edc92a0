"""A Raspberry Pi without the hardware: an aarch64 root of Debian packages, run by qemu.

Two roots, both made on first use and kept outside the repository (``$TVMQUANT_TEST_CACHE``, by
default ``~/.cache/tvmquant-tests``):

- ``runtime``: the C and C++ libraries that every Raspberry Pi OS has, 26 MB. Enough for a bundle.
- ``python``: the same with Python and the aarch64 wheels of TVM, 470 MB.

qemu emulates the processor and leaves the rest to this machine: files that the root lacks are the
ones of this machine, and times mean nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tvmquant._versions import PINS

CPUS = ("cortex-a53", "cortex-a72", "cortex-a76")

_LIBRARIES = ("libc6", "libstdc++6", "libgcc-s1", "libgomp1", "libatomic1", "zlib1g")
_PYTHON = ("python3", "python3-minimal", "libpython3-stdlib", "libxml2", "libffi8")
# What tvmquant.load and TVM's RPC server import; not onnx, which only the compiler needs.
_WHEELS = (
    *(f"{name}=={version}" for name, version in PINS.items()),
    "numpy>=1.26,<3",
    "ml_dtypes>=0.5,<1",
    "psutil>=5.9,<8",
    "cloudpickle>=3,<4",
    "tornado>=6,<7",
    "click>=8.1,<9",
    "rich>=13.7,<16",
)
# Oldest glibc first: pip takes every wheel that one of these names.
_PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_17_aarch64", "manylinux_2_28_aarch64")
_REPOSITORY = Path(__file__).resolve().parents[1]


class Unavailable(Exception):
    """The emulated Pi cannot be had here; the message says why."""


class EmulatedPi:
    """Runs aarch64 programs.

    Parameters
    ----------
    root : Path
        Folder that programs see as ``/`` as far as it has the file they ask for.
    qemu : str
        Path of ``qemu-aarch64``.
    """

    def __init__(self, root: Path, qemu: str) -> None:
        self.root = root
        self.qemu = qemu

    @property
    def site(self) -> Path:
        """Folder of the Python packages (``python`` root only)."""
        return self.root / "opt" / "site"

    def command(
        self,
        argv: Sequence[str | os.PathLike[str]],
        cpu: str = "cortex-a72",
        env: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> list[str]:
        """The command line of this machine that runs ``argv`` on the Pi.

        Parameters
        ----------
        argv : sequence of str
            An aarch64 program and its arguments.
        cpu : str
            For example ``cortex-a53``, see ``qemu-aarch64 -cpu help``.
        env : mapping, optional
            Environment variables to set for the program only.
        options : sequence of str
            Further options of qemu, for example ``("-plugin", …)``.
        """
        settings = [part for k, v in (env or {}).items() for part in ("-E", f"{k}={v}")]
        program = [os.fspath(part) for part in argv]
        return [self.qemu, "-cpu", cpu, "-L", str(self.root), *options, *settings, *program]

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        cpu: str = "cortex-a72",
        env: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        *,
        check: bool = True,
        timeout: float = 300,
        **subprocess_options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``argv`` to its end and return what it printed; see :meth:`command`.

        Raises
        ------
        AssertionError
            If ``check`` and the program fails; the message has its output.
        """
        command = self.command(argv, cpu, env, options)
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, **subprocess_options
        )
        if check:
            assert done.returncode == 0, f"exit {done.returncode}: {done.stdout}\n{done.stderr}"
        return done

    def python_env(self, runtime_only: bool = True) -> dict[str, str]:
        """Environment of the Pi's Python: its own packages and this checkout's ``tvmquant``.

        ``runtime_only`` loads TVM's runtime without its compiler, which halves the start-up.
        """
        env = {
            "PYTHONHOME": str(self.root / "usr"),
            "PYTHONPATH": f"{self.site}:{_REPOSITORY}",
            "PYTHONDONTWRITEBYTECODE": "1",
            # qemu does not pass the processor's topology on.
            "TVM_NUM_THREADS": "1",
        }
        return env | ({"TVM_USE_RUNTIME_LIB": "1"} if runtime_only else {})

    @property
    def python(self) -> Path:
        """The Pi's Python interpreter, an aarch64 program."""
        return next(iter(sorted((self.root / "usr" / "bin").glob("python3.*[0-9]"))))

    def run_python(
        self,
        arguments: Sequence[str | os.PathLike[str]],
        cpu: str = "cortex-a72",
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run the Pi's Python, for example ``["-c", "print(1)"]``; see :meth:`run`."""
        return self.run(
            [self.python, *arguments], cpu, self.python_env() | dict(env or {}), **options
        )

    def python_script(
        self, path: Path, cpu: str = "cortex-a72", env: Mapping[str, str] | None = None
    ) -> Path:
        """Write a shell script that behaves as the Pi's ``python``, and return its path.

        For what starts ``sys.executable`` again, as TVM's RPC server does: set that to the script.
        """
        command = self.command([self.python], cpu, self.python_env() | dict(env or {}))
        path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        path.chmod(0o755)
        return path


def emulated_pi(python: bool = False) -> EmulatedPi:
    """The emulated Pi, with Python or with C libraries only; made on the first call.

    Raises
    ------
    Unavailable
        If qemu is missing or the root cannot be made.
    """
    if sys.platform != "linux":
        raise Unavailable("qemu emulates programs on Linux only")
    qemu = shutil.which("qemu-aarch64")
    if qemu is None:
        raise Unavailable("no qemu-aarch64: apt-get install qemu-user")
    return EmulatedPi(_root(python), qemu)


def cache_folder() -> Path:
    """Where downloads of the tests are kept."""
    folder = Path(os.environ.get("TVMQUANT_TEST_CACHE", "~/.cache/tvmquant-tests")).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Let one process at a time into the body."""
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _root(python: bool) -> Path:
    packages = (*_LIBRARIES, *(_PYTHON if python else ()))
    wheels = _WHEELS if python else ()
    contents = hashlib.sha256(repr((packages, wheels, _PLATFORMS)).encode()).hexdigest()[:12]
    root = cache_folder() / f"pi-{'python' if python else 'runtime'}-{contents}"
    with lock(root.with_suffix(".lock")):
        if not root.is_dir():
            with tempfile.TemporaryDirectory(dir=root.parent, prefix="pi-") as work:
                made = Path(work) / "root"
                made.mkdir()
                _install_debs(packages, made, Path(work))
                if wheels:
                    _install_wheels(wheels, made)
                made.rename(root)
    return root


def _install_debs(packages: Sequence[str], root: Path, work: Path) -> None:
    """Download arm64 packages with what they depend on, and unpack them.

    apt keeps a state of its own for this, so nothing of this machine's packages changes.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise Unavailable(f"no {tool}: the root is made of Debian packages")
    state = work / "apt"
    for folder in ("lists/partial", "archives/partial", "dpkg"):
        (state / folder).mkdir(parents=True)
    (state / "dpkg" / "status").touch()
    config = work / "apt.conf"
    config.write_text(
        f'APT::Architecture "arm64"; APT::Architectures {{ "arm64"; }};\n'
        f'Dir::State "{state}"; Dir::State::lists "{state}/lists";\n'
        f'Dir::State::status "{state}/dpkg/status";\n'
        f'Dir::Cache "{state}"; Dir::Cache::archives "{state}/archives";\n'
        'APT::Install-Recommends "false"; Acquire::Languages "none";\n'
        'APT::Sandbox::User ""; Debug::NoLocking "1"; Acquire::Retries "2";\n'
    )
    env = os.environ | {"APT_CONFIG": str(config)}
    # Some other source of this machine may lack arm64: what counts is the install below.
    _tool(["apt-get", "update", "-qq"], env=env, check=False)
    _tool(["apt-get", "-y", "-qq", "--download-only", "install", *packages], env=env)
    archives = sorted((state / "archives").glob("*.deb"))
    if not archives:
        raise Unavailable("apt-get downloaded no arm64 package")
    _unify_usr(root)
    for archive in archives:
        tar = work / "files.tar"
        with tar.open("wb") as stream:
            subprocess.run(["dpkg-deb", "--fsys-tarfile", archive], stdout=stream, check=True)
        _tool(["tar", "--keep-directory-symlink", "-xf", str(tar), "-C", str(root)])


def _unify_usr(root: Path) -> None:
    """Debian's packages hold files below /lib still, its systems have them below /usr/lib."""
    for name in ("bin", "lib", "sbin"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")


def _install_wheels(wheels: Sequence[str], root: Path) -> None:
    """Install aarch64 wheels for the Python of ``root`` with the pip of this machine."""
    binary = next(iter(sorted((root / "usr" / "bin").glob("python3.*[0-9]"))), None)
    if binary is None:
        raise Unavailable("Debian's packages brought no Python")
    platforms = [part for name in _PLATFORMS for part in ("--platform", name)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--no-compile"]
    command += ["--target", str(root / "opt" / "site"), "--only-binary=:all:", *platforms]
    command += ["--python-version", binary.name.removeprefix("python"), "--implementation", "cp"]
    _tool([*command, *wheels])


def _tool(command: Sequence[str], env: Mapping[str, str] | None = None, check: bool = True) -> None:
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if check and done.returncode:
        last = " ".join((done.stderr or done.stdout).strip().splitlines()[-2:])
        raise Unavailable(f"the aarch64 root cannot be made: {Path(command[0]).name}: {last}")
