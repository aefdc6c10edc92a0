"""A model as a folder that runs on a device without Python."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tvmquant.errors import InputError
from tvmquant.runtime.bundle import (
    LIBRARY,
    architecture,
    file_sums,
    write_manifest,
)
from tvmquant.runtime.compiled_model import CompiledModel
from tvmquant.runtime.gpu import cuda_archs
from tvmquant.runtime.libraries import runtime_libraries
from tvmquant.runtime.link import export_objects
from tvmquant.runtime.manifest import Manifest
from tvmquant.runtime.opening import open_bundle
from tvmquant.runtime.runner import RUNNER, build_runner
from tvmquant.runtime.save import MANIFEST, check_destination, save_folder
from tvmquant.runtime.toolchain import machine

README = "README"
# For the device's own sha256sum: it has no Python that reads the manifest.
SUMS = "SHA256SUMS"


def export_bundle(
    model: CompiledModel | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    runtime: bool | str | os.PathLike[str] = True,
    static: bool = False,
) -> Path:
    """Write a folder that needs nothing on the device but Linux's C and C++ libraries.

    It has the model, TVM's runtime libraries, the program ``run``, a manifest with the checksum of
    every file, and a README. :func:`tvmquant.load` loads it, too, unless it is static.

    Parameters
    ----------
    model : CompiledModel or path
        A model compiled for the device, or the folder of one.
    folder : path
        New, empty, or an older bundle (which is replaced).
    runtime : bool or path
        Folder with ``libtvm_runtime.so`` and ``libtvm_ffi.so`` for the device. By default (True)
        those of the published wheels; False leaves them out: they must be on the device.
    static : bool
        Link the model into ``run`` instead of writing ``model.so``.

    Returns
    -------
    Path
        The folder, absolute.

    Raises
    ------
    BundleError
        If the model is damaged, something is missing to build the program, or the folder cannot
        be written.
    InputError
        If ``static`` is asked of a folder: its model is linked already. Or the model is for a
        GPU.
    """
    check_destination(folder)
    if not isinstance(model, CompiledModel):
        model = open_bundle(model)
    if cuda_archs(model.manifest):
        raise InputError(
            f"{model.manifest.target}: a program that runs without Python is for processors only; "
            "copy the compiled folder to the machine with the GPU and load it there, or run "
            "tvmquant serve there and use --rpc"
        )
    if static and model.build_system_library is None:
        raise InputError(
            "a compiled folder cannot become static, its library is linked already: export the "
            "model itself (ONNX) with --static"
        )
    made_for = _linux_architecture(model.manifest)
    libraries = {}
    if runtime is not False:
        where = None if runtime is True else Path(runtime)
        libraries = runtime_libraries(made_for, where)
    elif static:
        raise InputError("a static bundle links with the runtime: name its folder or keep it in")

    def fill(staging: Path) -> None:
        for name, path in libraries.items():
            shutil.copyfile(path, staging / name)
        if static:
            with tempfile.TemporaryDirectory() as work:
                objects = export_objects(model.build_system_library(), Path(work))
                shipped = [staging / name for name in libraries]
                build_runner(staging / RUNNER, model.manifest, made_for, objects, shipped)
        else:
            model.write_library(staging / LIBRARY)
            build_runner(staging / RUNNER, model.manifest, made_for)
        names = sorted([README, MANIFEST, SUMS, *(entry.name for entry in staging.iterdir())])
        (staging / README).write_text(_readme(model.manifest, names), encoding="utf-8")
        sums = file_sums(staging)
        lines = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
        (staging / SUMS).write_text(lines)
        write_manifest(staging, model.manifest)

    return save_folder(folder, fill)


def _linux_architecture(manifest: Manifest) -> str:
    triple = str(json.loads(manifest.target_json).get("mtriple", sys.platform))
    if "linux" not in triple:
        raise InputError(f"bundles are for Linux, the model is for {triple}: use save instead")
    return architecture(manifest) or machine()


def exported_bytes(folder: str | os.PathLike[str]) -> int:
    """Bytes of all files of a bundle."""
    return sum(entry.stat().st_size for entry in Path(folder).iterdir())


_ABOUT = {
    "run": "runs the model: ./run --help",
    LIBRARY: "the model",
    "libtvm_runtime.so": "the runtime of Apache TVM",
    "libtvm_ffi.so": "what the runtime and the model call each other through",
    MANIFEST: "inputs, outputs, layers, quantization, versions, and a checksum of every file",
    README: "this text",
    SUMS: "sha256sum --check SHA256SUMS tells whether a file was damaged on the way",
}


def _readme(manifest: Manifest, names: list[str]) -> str:
    inputs = " ".join(f"{info.name}.npy" for info in manifest.inputs)
    outputs = " ".join(f"-o {info.name}.npy" for info in manifest.outputs)
    lines = [
        f"{manifest.source or 'model'}, {manifest.precision}, for {manifest.target}",
        "",
        *(f"input   {info}" for info in manifest.inputs),
        *(f"output  {info}" for info in manifest.outputs),
        "",
        "Copy this folder to the device. Python is not needed:",
        "",
        f"    ./run {inputs} {outputs}",
        "    ./run --bench 50",
        "",
        "It uses all cores; --threads 1 uses one.",
    ]
    if LIBRARY in names:
        lines += [
            "",
            "With Python (pip install tvmquant) on the device, tvmquant.load(FOLDER) checks all",
            "files and gives the model as a function on NumPy arrays.",
        ]
    if "libtvm_runtime.so" not in names:
        lines += ["", "libtvm_runtime.so and libtvm_ffi.so must be installed on the device."]
    width = max(map(len, names))
    return "\n".join([*lines, "", *(f"{name:{width}}  {_ABOUT[name]}" for name in names), ""])
