"""A model on disk: a folder with ``model.so`` and ``manifest.json``."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tvmquant.errors import BundleError
from tvmquant.runtime.gpu import cuda_archs, local_gpu, why_no_gpu
from tvmquant.runtime.manifest import Manifest, current_versions
from tvmquant.runtime.save import FORMAT, LIBRARY, MANIFEST, save_folder

FORMAT_VERSION = 1

# e_machine of an ELF header → what platform.machine() and TVM's mtriple call it.
_ELF_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
_ALIASES = {"amd64": "x86_64", "arm64": "aarch64", "i686": "i386", "armv7l": "arm"}


def read_bundle(folder: Path) -> tuple[Manifest, Path]:
    """Manifest and library of a whole bundle; ``BundleError`` if it is none.

    Parameters
    ----------
    folder : Path
    """
    manifest, library = read_manifest(folder), folder / LIBRARY
    if not library.exists():
        raise BundleError(f"{folder} has its model inside the program run: start that")
    return manifest, library


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
    _check_files(folder, data)
    try:
        return Manifest.from_dict(data["model"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{path} is damaged ({error!r}): {again}") from None


def _check_files(folder: Path, data: dict[str, Any]) -> None:
    files = data.get("files") or {LIBRARY: data.get("sha256")}
    if not isinstance(files, dict) or not all(Path(name).name == name for name in files):
        raise BundleError(f"{folder / MANIFEST} is damaged (files): compile the model again")
    for name, wanted in files.items():
        path = folder / name
        try:
            digest = _sha256(path)
        except OSError as error:
            raise BundleError(
                f"cannot read {path} ({error.strerror}): compile the model again"
            ) from None
        if digest != wanted:
            raise BundleError(
                f"{path} does not match the checksum in {MANIFEST}: copy it or compile the model "
                "again"
            )


def why_not_runnable(manifest: Manifest, library: Path | None = None) -> str | None:
    """Say in one line why this machine cannot run a model; ``None`` when it can."""
    from tvmquant.targets.device import get_device
    from tvmquant.targets.hwcap import arm_features

    here = canonical(platform.machine())
    made_for = architecture(manifest, library)
    if made_for not in (None, here):
        return (
            f"it was compiled for {made_for}, this machine is {here}: compile it for this one, or "
            "export it to the device"
        )
    archs = cuda_archs(manifest)
    if archs:
        no_gpu = why_no_gpu(archs, local_gpu())
        if no_gpu is not None:
            return no_gpu
    else:
        # Of ARM processors the system knows more than TVM does, and without TVM's compiler.
        features = arm_features()
        if features is None:
            features = get_device("host").features
        missing = sorted(set(manifest.features) - features)
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


def save_bundle(
    folder: str | os.PathLike[str], manifest: Manifest, export: Callable[[Path], Any]
) -> Path:
    """Write a bundle, all or nothing; see :func:`tvmquant.runtime.save.save_folder`.

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

    def fill(staging: Path) -> None:
        export(staging / LIBRARY)
        write_manifest(staging, manifest)

    return save_folder(folder, fill)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``, with the checksum of every other file of ``folder``."""
    files = file_sums(folder)
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "sha256": files.get(LIBRARY),
        "files": files,
        "model": manifest.to_dict(),
    }
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def file_sums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder, by name."""
    return {entry.name: _sha256(entry) for entry in sorted(folder.iterdir()) if entry.is_file()}


def bundle_bytes(folder: str | os.PathLike[str]) -> int:
    """Bytes of the shared library of a bundle."""
    return (Path(folder) / LIBRARY).stat().st_size


def elf_architecture(path: Path) -> str | None:
    """Architecture of a Linux program or library; ``None`` of any other file."""
    with path.open("rb") as stream:
        header = stream.read(20)
    if header[:4] != b"\x7fELF" or len(header) < 20:
        return None
    order = "little" if header[5] == 1 else "big"
    return _ELF_MACHINES.get(int.from_bytes(header[18:20], order), "an unknown processor")


def architecture(manifest: Manifest, library: Path | None = None) -> str | None:
    """Architecture that a model was compiled for: the library says so, or else the target."""
    if library is not None:
        made_for = elf_architecture(library)
        if made_for is not None:
            return made_for
    target = json.loads(manifest.target_json)
    target = target.get("host", target) if isinstance(target, dict) else {}
    triple = str(target.get("mtriple", ""))
    return canonical(triple.split("-")[0]) or None


def canonical(machine: str) -> str:
    """One name of an architecture for the several that systems give it."""
    return _ALIASES.get(machine.lower(), machine.lower())


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
