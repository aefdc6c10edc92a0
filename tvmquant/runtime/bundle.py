"""A model on disk: a folder with ``model.so`` and ``manifest.json``."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmquant.errors import BundleError
from tvmquant.runtime.manifest import Manifest, current_versions

if TYPE_CHECKING:
    from tvmquant.runtime.compiled_model import CompiledModel

FORMAT = "tvmquant-bundle"
FORMAT_VERSION = 1
LIBRARY = "model.so"
MANIFEST = "manifest.json"

# e_machine of an ELF header → what platform.machine() and TVM's mtriple call it.
_ELF_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
_ALIASES = {"amd64": "x86_64", "arm64": "aarch64", "i686": "i386", "armv7l": "arm"}


def load(folder: str | os.PathLike[str]) -> CompiledModel:
    """Load a model that :meth:`CompiledModel.save` wrote.

    Parameters
    ----------
    folder : path
        The bundle.

    Raises
    ------
    BundleError
        If the folder is missing, damaged, or made for another TVM or processor.
    """
    import tvm

    from tvmquant.runtime.compiled_model import CompiledModel

    folder = Path(folder)
    manifest = read_manifest(folder)
    library = folder / LIBRARY
    reason = why_not_runnable(manifest, library)
    if reason:
        raise BundleError(f"cannot run {folder}: {reason}")
    try:
        module = tvm.runtime.load_module(str(library.resolve()))
    except Exception as error:
        last = str(error).strip().splitlines()[-1]
        raise BundleError(f"cannot load {library}: {last}; compile the model again") from None
    return CompiledModel(manifest, lambda: module, lambda path: shutil.copyfile(library, path))


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Read and check a bundle (format and checksum) without loading its code.

    Raises
    ------
    BundleError
        If the folder is not a whole bundle.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(
            f"{folder} is not a compiled model (no {MANIFEST}): make one with "
            "tvmquant compile MODEL -o DIR"
        )
    again = "compile the model again"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise BundleError(f"{path} is damaged ({error}): {again}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise BundleError(f"{path} is not from tvmquant: name a folder that it wrote")
    if data.get("format_version") != FORMAT_VERSION:
        raise BundleError(
            f"{path} has format version {data.get('format_version')}, this tvmquant reads "
            f"{FORMAT_VERSION}: {again}"
        )
    library = folder / LIBRARY
    try:
        digest = _sha256(library)
    except OSError as error:
        raise BundleError(f"cannot read {library} ({error.strerror}): {again}") from None
    if digest != data.get("sha256"):
        raise BundleError(f"{library} does not match the checksum in {MANIFEST}: {again}")
    try:
        return Manifest.from_dict(data["model"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{path} is damaged ({error!r}): {again}") from None


def why_not_runnable(manifest: Manifest, library: Path | None = None) -> str | None:
    """Say in one line why this machine cannot run a model; ``None`` when it can."""
    from tvmquant.targets.device import get_device

    here = _ALIASES.get(platform.machine().lower(), platform.machine().lower())
    made_for = _architecture(manifest, library)
    if made_for not in (None, here):
        return f"it was compiled for {made_for}, this machine is {here}: compile it for this one"
    missing = sorted(set(manifest.features) - get_device("host").features)
    if missing:
        return f"this processor lacks {', '.join(missing)}: compile the model on this machine"
    installed = current_versions()
    for name in ("apache-tvm", "apache-tvm-ffi"):
        made = manifest.versions.get(name, installed[name])
        if made != installed[name]:
            return (
                f"it was compiled with {name} {made}, installed is {installed[name]}: compile it "
                "again"
            )
    return None


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
            foreign = {entry.name for entry in folder.iterdir()} - {LIBRARY, MANIFEST}
            if foreign or (any(folder.iterdir()) and not _is_bundle(folder)):
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


def save_bundle(
    folder: str | os.PathLike[str], manifest: Manifest, export: Callable[[Path], Any]
) -> Path:
    """Write a bundle, all or nothing.

    It is built in a hidden folder beside the destination and renamed at the end, so that a full
    disk or an interrupt leaves neither a half-written folder nor a broken older bundle.

    Parameters
    ----------
    folder : path
        New, empty, or an older bundle (which is replaced).
    manifest : Manifest
    export : callable
        Writes the shared library to the path that it is given.

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
        export(staging / LIBRARY)
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "sha256": _sha256(staging / LIBRARY),
            "model": manifest.to_dict(),
        }
        (staging / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        if in_place:
            (folder / MANIFEST).unlink(missing_ok=True)
            for name in (LIBRARY, MANIFEST):
                (staging / name).replace(folder / name)
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


def bundle_bytes(folder: str | os.PathLike[str]) -> int:
    """Bytes of the shared library of a bundle."""
    return (Path(folder) / LIBRARY).stat().st_size


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
    reason = getattr(error, "strerror", None) or " ".join(lines[:3]) or type(error).__name__
    return BundleError(f"cannot write {folder}: {reason}; free some space or name another folder")


def _is_bundle(folder: Path) -> bool:
    try:
        data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and data.get("format") == FORMAT


def _architecture(manifest: Manifest, library: Path | None) -> str | None:
    if library is not None:
        with library.open("rb") as stream:
            header = stream.read(20)
        if header[:4] == b"\x7fELF":
            order = "little" if header[5] == 1 else "big"
            return _ELF_MACHINES.get(int.from_bytes(header[18:20], order))
    target = json.loads(manifest.target_json)
    triple = str(target.get("mtriple", "")) if isinstance(target, dict) else ""
    architecture = triple.split("-")[0].lower()
    return _ALIASES.get(architecture, architecture) or None


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
