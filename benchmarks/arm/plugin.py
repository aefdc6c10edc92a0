"""Counts executed instructions of a program under qemu, by place in a library's file.

The plugin ``icount.c`` counts how often each translated block ran. A count is taken twice, with
one and with two calls of what is measured; the difference is one call, without loading, packing
and warming up, and the same in every run.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.arm.isa import CLASSES, classify
from tests.emulated_pi import EmulatedPi, Unavailable, cache_folder, lock

SOURCE = Path(__file__).resolve().with_name("icount.c")
# Version of qemu's plugin interface: 1 up to qemu 8, and what later ones still accept.
_API_VERSIONS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Counts:
    """Executed instructions of one library.

    Attributes
    ----------
    library : Path
    offsets : np.ndarray
        int64 ``[n]``, offsets of instructions in the file, ascending.
    words : np.ndarray
        uint32 ``[n]``, the instructions.
    executions : np.ndarray
        int64 ``[n]``.
    """

    library: Path
    offsets: np.ndarray
    words: np.ndarray
    executions: np.ndarray

    @property
    def total(self) -> int:
        return int(self.executions.sum())

    def by_class(self) -> dict[str, int]:
        """Executed instructions of each of :data:`benchmarks.arm.isa.CLASSES`."""
        sums = np.bincount(classify(self.words), self.executions, len(CLASSES))
        return {name: int(count) for name, count in zip(CLASSES, sums)}

    def minus(self, other: Counts) -> Counts:
        """What ``self`` executed more often than ``other``, of the same library."""
        known = dict(zip(other.offsets.tolist(), other.executions.tolist()))
        less = np.array([known.get(offset, 0) for offset in self.offsets.tolist()], np.int64)
        return Counts(self.library, self.offsets, self.words, self.executions - less)


def count_call(
    pi: EmulatedPi,
    cpu: str,
    command: Callable[[int], Sequence[str | Path]],
    library: Path,
    env: Mapping[str, str] | None = None,
) -> Counts:
    """Executed instructions in ``library`` during one call; see :func:`count_libraries`."""
    return count_libraries(pi, cpu, command, [library], env)[0]


def count_libraries(
    pi: EmulatedPi,
    cpu: str,
    command: Callable[[int], Sequence[str | Path]],
    libraries: Sequence[Path],
    env: Mapping[str, str] | None = None,
) -> list[Counts]:
    """Executed instructions in each of ``libraries`` during one call.

    Parameters
    ----------
    pi : EmulatedPi
    cpu : str
        For example ``cortex-a72``.
    command : callable
        Takes the number of calls and returns the aarch64 program with its arguments.
    libraries : sequence of Path
        Files that the program maps.
    env : mapping, optional
        Environment of the program.

    Raises
    ------
    Unavailable
        If the plugin cannot be built or loaded.
    """
    wanted = libraries[0].name if len(libraries) == 1 else ""
    one, two = (_count(pi, cpu, command(calls), wanted, env) for calls in (1, 2))
    return [_difference(library, one, two) for library in libraries]


_Executions = dict[Path, dict[int, int]]


def _difference(library: Path, one: _Executions, two: _Executions) -> Counts:
    before = one.get(library.resolve(), {})
    executions = {
        offset: count - before.get(offset, 0)
        for offset, count in two.get(library.resolve(), {}).items()
    }
    offsets = np.array(sorted(o for o, count in executions.items() if count), np.int64)
    counts = np.array([executions[o] for o in offsets.tolist()], np.int64)
    if not counts.size or counts.sum() <= 0:
        raise RuntimeError(f"{library.name}: a second call executes nothing in it")
    code = np.frombuffer(library.read_bytes()[: library.stat().st_size // 4 * 4], "<u4")
    return Counts(library, offsets, code[offsets // 4], counts)


def _count(
    pi: EmulatedPi,
    cpu: str,
    command: Sequence[str | Path],
    wanted: str,
    env: Mapping[str, str] | None,
) -> _Executions:
    """Executions of each instruction, by file and offset in it."""
    result: _Executions = {}
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / "counts"
        plugin = f"{_plugin(pi.qemu)},lib={wanted},out={out}"
        # -B 0: addresses of the program are addresses of qemu's process, whose maps are read.
        pi.run(command, cpu, env, ("-B", "0", "-plugin", plugin), timeout=3600)
        lines = out.read_text().splitlines()
    for line in lines:
        count, length, offset, path = line.split(" ", 3)
        executions = result.setdefault(Path(path), {})
        start = int(offset, 16)
        for address in range(start, start + 4 * int(length), 4):
            executions[address] = executions.get(address, 0) + int(count)
    return result


@functools.cache
def _plugin(qemu: str) -> Path:
    """The plugin, compiled for the interface that this qemu has."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise Unavailable("no C compiler for the counting plugin: apt-get install gcc")
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    message = ""
    for version in _API_VERSIONS:
        plugin = cache_folder() / f"icount-{digest}-{version}.so"
        with lock(plugin.with_suffix(".lock")):
            if not plugin.is_file():
                made = plugin.with_suffix(".tmp")
                options = ["-O2", "-shared", "-fPIC", f"-DAPI_VERSION={version}"]
                subprocess.run([compiler, *options, "-o", made, SOURCE], check=True)
                made.rename(plugin)
        # Without out= the plugin refuses: by then qemu has accepted its version.
        probe = [qemu, "-plugin", str(plugin), "/proc/self/exe"]
        message = subprocess.run(probe, capture_output=True, text=True, check=False).stderr
        if "out=FILE" in message:
            return plugin
    raise Unavailable(f"{Path(qemu).name} takes no plugin: {message.strip().splitlines()[-1]}")
