"""Which databases a compilation looks into."""

from __future__ import annotations

import os
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from tvmquant.errors import InputError
from tvmquant.schedules.space import TuningDatabase
from tvmquant.targets.device import Device
from tvmquant.tuning.database import Database, Databases
from tvmquant.tuning.record import instruction_set

VARIABLE = "TVMQUANT_DATABASE"
_OFF = ("off", "0", "no", "none")


def active_database(database: Any, device: Device) -> TuningDatabase | None:
    """Turn the argument ``database`` of :func:`tvmquant.compile` into what is looked up.

    Parameters
    ----------
    database : path, Database, None or False
        Looked up before the measurements that ship with tvmquant. ``None`` means the file that
        the environment variable ``TVMQUANT_DATABASE`` names, if any. ``False``, or the variable
        set to ``off``, means none at all.
    device : Device

    Raises
    ------
    InputError
        If a file is missing or is not a database.
    """
    if database is None:
        database = os.environ.get(VARIABLE) or None
        if database is not None and database.lower() in _OFF:
            database = False
    if database is False:
        return None
    own = [] if database is None else [open_database(database)]
    return Databases([*own, shipped(instruction_set(device))])


def open_database(database: Any) -> Database:
    """A database that must exist.

    Raises
    ------
    InputError
        If it does not, or if ``database`` is neither a path nor a :class:`Database`.
    """
    if isinstance(database, Database):
        return database
    if not isinstance(database, str | os.PathLike):
        raise InputError(
            f"database must be a path, a Database or False, got {type(database).__name__}"
        )
    if not Path(database).is_file():
        raise InputError(f"no tuning database {database}: make one with tvmquant tune")
    return Database(database)


def shipped_path(isa: str) -> Path:
    """File of the measurements that ship for an instruction set."""
    return Path(str(files("tvmquant") / "assets" / "tuned" / f"{isa}.jsonl"))


@cache
def shipped(isa: str) -> Database:
    """Measurements of common layers that ship with tvmquant, empty for an unknown set."""
    path = shipped_path(isa)
    database = Database(path if path.is_file() else None)
    database.path = None  # never written to
    return database
