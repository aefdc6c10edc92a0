"""Writing a folder all or nothing."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tvmquant.errors import BundleError

FORMAT = "tvmquant-bundle"
LIBRARY = "model.so"
MANIFEST = "manifest.json"


def check_destination(folder: str | os.PathLike[str]) -> Path:
    """Whether a bundle may be written to ``folder``, before any work is spent on it.

    Returns
    -------
    Path
        The folder, absolute, symbolic links resolved.

    Raises
    ------
    BundleError
        If it holds anything but an older bundle, or cannot be written.
    """
    shown, folder = Path(folder), Path(folder).resolve()
    try:
        if folder.exists():
            if not folder.is_dir():
                raise BundleError(f"{shown} is a file: name a folder")
            foreign = {entry.name for entry in folder.iterdir()} - _own_files(folder)
            if foreign:
                raise BundleError(
                    f"{shown} is not empty and not a tvmquant model: name another folder or "
                    "empty it"
                )
        ancestor = folder if _in_place(folder) else folder.parent
        while not ancestor.exists() and ancestor != ancestor.parent:
            ancestor = ancestor.parent
        _probe(ancestor, shown)
    except OSError as error:
        raise _cannot_write(shown, error) from None
    return folder


def save_folder(folder: str | os.PathLike[str], fill: Callable[[Path], Any]) -> Path:
    """Write the files of a bundle, all or nothing.

    They are written to a hidden folder beside the destination and renamed at the end, so that a
    full disk or an interrupt leaves neither a half-written folder nor a broken older bundle.

    Parameters
    ----------
    folder : path
        New, empty, or an older bundle (which is replaced).
    fill : callable
        Writes the files, ``manifest.json`` among them, to the folder that it is given.

    Returns
    -------
    Path
        The folder, absolute.

    Raises
    ------
    BundleError
        If the folder cannot be written.
    """
    shown, folder = Path(folder), check_destination(folder)
    in_place = _in_place(folder)
    parents = [p for p in folder.parents if not p.exists()]
    staging = (folder if in_place else folder.parent) / f".{folder.name}.{uuid.uuid4().hex[:8]}"
    try:
        staging.mkdir(parents=True)
        fill(staging)
        if in_place:
            _replace_files(staging, folder)
        else:
            _swap(staging, folder)
    except (OSError, RuntimeError) as error:
        raise _cannot_write(shown, error) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if not folder.exists():
            for parent in parents:
                if parent.is_dir() and not any(parent.iterdir()):
                    parent.rmdir()
    return folder


def _in_place(folder: Path) -> bool:
    """Whether an existing folder cannot be swapped by a rename and must be filled instead."""
    return folder.is_dir() and (
        folder.is_mount() or folder == Path.cwd() or not os.access(folder.parent, os.W_OK)
    )


def _probe(ancestor: Path, shown: Path) -> None:
    """Really make a folder: the permission bits say nothing to root or of a read-only disk."""
    probe = ancestor / f".tvmquant.{uuid.uuid4().hex[:8]}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise BundleError(
            f"cannot write {shown}: no folder can be made in {ancestor} ({error.strerror}); name "
            "another folder"
        ) from None


def _replace_files(staging: Path, folder: Path) -> None:
    old = _own_files(folder)
    # Without its manifest the folder is no bundle until it is a whole one again.
    (folder / MANIFEST).unlink(missing_ok=True)
    new = {entry.name for entry in staging.iterdir()}
    for name in (*sorted(new - {MANIFEST}), MANIFEST):
        (staging / name).replace(folder / name)
    for name in old - new:
        (folder / name).unlink(missing_ok=True)


def _swap(staging: Path, folder: Path) -> None:
    if not folder.exists():
        staging.rename(folder)
        return
    old = staging.with_name(staging.name + ".old")
    folder.rename(old)
    try:
        staging.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _cannot_write(folder: Path, error: Exception) -> BundleError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "error:" in line]
    reason = getattr(error, "strerror", None) or " ".join((told or lines)[:3])
    reason = reason or type(error).__name__
    # A compiler or linker that fails for want of space says so in its own words.
    if isinstance(error, OSError) or "no space" in str(error).lower():
        reason += "; free some space or name another folder"
    return BundleError(f"cannot write {folder}: {reason}")


def _own_files(folder: Path) -> set[str]:
    """Names that an older bundle in ``folder`` may have; none where there is no bundle."""
    try:
        data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        return set()
    known = {LIBRARY, MANIFEST, *map(str, data.get("files") or ())}
    return known & {entry.name for entry in folder.iterdir()}
