"""Reading and writing the .npz files of the command line."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tvmquant.errors import InputError


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an archive.

    Raises
    ------
    InputError
        If the file is missing, damaged, or holds Python objects.
    """
    try:
        data = np.load(path, allow_pickle=False)
        if not isinstance(data, np.ndarray):
            with data:
                return {name: data[name] for name in data.files}
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        # NumPy's own words would propose allow_pickle, which runs code from the file.
        raise InputError(
            f"{path} is damaged or not an .npz file of plain arrays: write it with numpy.savez"
        ) from None
    raise InputError(f"{path} holds one array without a name: save it with numpy.savez")


def check_output(path: Path) -> None:
    """Whether a file may be written to ``path``, before any work is spent on it.

    Raises
    ------
    InputError
        If it is a folder, or its folder is missing.
    """
    if path.is_dir() or not path.parent.is_dir():
        what = "it is a folder" if path.is_dir() else f"{path.parent} is not a folder"
        raise InputError(f"cannot write {path}: {what}; name another file")


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an archive, all or nothing: beside the file, then renamed.

    ``numpy.savez`` would refuse an array called ``file`` and append ``.npz`` to the name.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    with _replacing(path) as part, zipfile.ZipFile(part, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def write_text(path: Path, text: str) -> None:
    """Write a text file, all or nothing.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    with _replacing(path) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to fill, which then takes its place."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write {path}: {reason}; name another file") from None
    finally:
        if part.is_file():
            part.unlink()
