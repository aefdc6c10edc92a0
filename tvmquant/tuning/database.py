"""Measurements in a file: one JSON line each, only ever appended to."""

from __future__ import annotations

import math
import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tvmquant.errors import InputError
from tvmquant.schedules.space import Choice
from tvmquant.schedules.workload import Workload
from tvmquant.targets.device import Device
from tvmquant.tuning.record import Processor, Record

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class DatabaseWarning(UserWarning):
    """Lines of a database were skipped."""


class Database:
    """Measurements, by workload and processor.

    Parameters
    ----------
    path : path, optional
        File to read now (if it exists) and to append to; without one nothing is kept.

    Raises
    ------
    InputError
        If the file cannot be read or holds no measurement at all.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._records: dict[Workload, list[Record]] = defaultdict(list)
        # Workloads by what they are without what their weights prove.
        self._alike: dict[Workload, dict[Workload, None]] = defaultdict(dict)
        if self.path is not None:
            self._read(self.path)

    def __len__(self) -> int:
        return sum(map(len, self._records.values()))

    @property
    def records(self) -> list[Record]:
        """Everything, in the order of the workloads' first appearance."""
        return [record for records in self._records.values() for record in records]

    def add(self, record: Record) -> None:
        """Remember a measurement, and write its line at once.

        A line is one write to a file opened for appending: an interrupted run loses nothing, and
        two processes may share a file.

        Raises
        ------
        InputError
            If the file cannot be written.
        """
        self._remember(record)
        if self.path is not None:
            append_line(self.path, record.to_json())

    def measured(self, workload: Workload, device: Device, threads: int = 1) -> list[Record]:
        """Records of exactly this processor and number of threads, failures included."""
        processor = Processor.of(device)
        return [
            record
            for record in self._records.get(workload, ())
            if record.processor == processor and record.threads == threads
        ]

    def best(self, workload: Workload, device: Device) -> Record | None:
        """The fastest record of the most similar processor, see :meth:`ranked`."""
        records = self._usable(workload, device)
        return records[0] if records else None

    def seconds(self, workload: Workload, device: Device) -> float | None:
        """Time of the fastest choice on exactly this processor; ``None`` if unknown."""
        best = self.best(workload, device)
        same = best is not None and best.processor == Processor.of(device)
        return best.seconds if same else None

    def ranked(self, workload: Workload, device: Device) -> list[Choice]:
        """Choices for a workload, the fastest first.

        Only records of one machine compare, so those of the same processor are used if there are
        any, else those of another one with the same instruction set (of which most was
        measured), and of these the number of threads that was measured last.
        """
        return [record.choice for record in self._usable(workload, device)]

    def _usable(self, workload: Workload, device: Device) -> list[Record]:
        wanted = Processor.of(device)
        workload = self._most_alike(workload, wanted.isa)
        groups: dict[Processor, list[Record]] = defaultdict(list)
        for record in self._records.get(workload, ()):
            if record.seconds is not None and record.processor.isa == wanted.isa:
                groups[record.processor].append(record)
        if not groups:
            return []
        same_cpu = [p for p in groups if p.cpu == wanted.cpu]
        chosen = max(groups, key=lambda p: (p == wanted, p in same_cpu, len(groups[p])))
        threads = groups[chosen][-1].threads
        fastest: dict[tuple[str, str], Record] = {}
        for record in groups[chosen]:
            if record.threads == threads:
                known = fastest.get(record.key)
                if known is None or record.seconds < known.seconds:
                    fastest[record.key] = record
        return sorted(fastest.values(), key=lambda record: record.seconds)

    def _remember(self, record: Record) -> None:
        self._records[record.workload].append(record)
        self._alike[_without_proofs(record.workload)][record.workload] = None

    def _most_alike(self, workload: Workload, isa: str) -> Workload:
        """The workload itself, or one of other weights that prove something else.

        Whatever is exact for weights that prove less is exact for these as well; a choice that
        needs a stronger proof is refused by its kernel.
        """
        if workload in self._records:
            return workload
        # With VNNI nothing saturates: that proof makes no difference.
        found = [
            other
            for other in self._alike.get(_without_proofs(workload), ())
            if "vnni" in isa or other.no_saturation == workload.no_saturation
        ]
        bound = _bound(workload)

        def distance(other: Workload) -> tuple[bool, float]:
            there = _bound(other)
            return there < bound, there if there >= bound else -there

        return min(found, key=distance, default=workload)

    def _read(self, path: Path) -> None:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"cannot read the database {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InputError(f"{path} is not a tuning database: name another file") from None
        bad = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = Record.from_json(line)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                bad.append((number, f"{type(error).__name__}: {error}"))
                continue
            self._remember(record)
        if bad and not self._records:
            raise InputError(
                f"{path} is not a tuning database (line {bad[0][0]}: {bad[0][1]}): name another "
                "file"
            )
        if bad:
            numbers = ", ".join(str(number) for number, _ in bad[:5])
            more = "" if len(bad) <= 5 else f" and {len(bad) - 5} more"
            warnings.warn(
                f"{path}: skipped line {numbers}{more}, damaged or of another version of tvmquant "
                f"({bad[0][1]})",
                DatabaseWarning,
                stacklevel=3,
            )


def _without_proofs(workload: Workload) -> Workload:
    return replace(workload, no_saturation=False, max_abs_sum=None)


def _bound(workload: Workload) -> float:
    return math.inf if workload.max_abs_sum is None else workload.max_abs_sum


def append_line(path: Path, line: str) -> None:
    """Append one whole line to a file in a single write.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    try:
        # Reading as well: a line that was cut off by a crash must be ended first.
        with path.open("ab+", buffering=0) as file:
            if fcntl is not None:
                # Another writer's line may be half visible while it is being written.
                fcntl.flock(file, fcntl.LOCK_EX)
            size = file.seek(0, os.SEEK_END)
            torn = False
            if size:
                file.seek(-1, os.SEEK_END)
                torn = file.read(1) != b"\n"
            file.write(("\n" * torn + line + "\n").encode())
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write the database {path}: {reason}; name another file") from None


class Databases:
    """Several databases in order: the first that knows a workload answers."""

    def __init__(self, databases: Iterable[Database]) -> None:
        self._databases = tuple(databases)

    def ranked(self, workload: Workload, device: Device) -> Sequence[Choice]:
        """As :meth:`Database.ranked`."""
        for database in self._databases:
            if choices := database.ranked(workload, device):
                return choices
        return ()

    def seconds(self, workload: Workload, device: Device) -> float | None:
        """As :meth:`Database.seconds`."""
        for database in self._databases:
            if database.ranked(workload, device):
                return database.seconds(workload, device)
        return None
