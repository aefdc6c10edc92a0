"""Building the C program that runs one model without Python."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import tvm
import tvm_ffi.libinfo

from tvmquant import __version__
from tvmquant.runtime.manifest import Manifest, TensorInfo
from tvmquant.runtime.toolchain import find_toolchain
from tvmquant.targets.hwcap import HWCAPS

RUNNER = "run"


def build_runner(
    path: Path,
    manifest: Manifest,
    architecture: str,
    objects: Sequence[Path] = (),
    libraries: Sequence[Path] = (),
) -> None:
    """Compile the runner of a model.

    Parameters
    ----------
    path : Path
        The program to write.
    manifest : Manifest
    architecture : str
    objects : sequence of Path
        Object files of the model, compiled as a system library: the model is then part of the
        program. By default the program loads ``model.so``.
    libraries : sequence of Path
        TVM's runtime libraries to link with, needed with ``objects``. They are looked up in the
        folder of the program when it starts.

    Raises
    ------
    BundleError
        If there is no C compiler.
    RuntimeError
        If compiling fails.
    """
    compiler = find_toolchain(architecture)
    with tempfile.TemporaryDirectory() as work, as_file(files("tvmquant") / "assets") as assets:
        (Path(work) / "model.h").write_text(model_header(manifest, architecture))
        options = ["-O2", "-std=gnu11", f"-I{work}", f"-I{tvm_ffi.libinfo.find_include_path()}"]
        options += [
            f"-I{assets}",
            f"-I{tvm_ffi.libinfo.find_dlpack_include_path()}",
            *compiler.small,
        ]
        linked: list[str] = ["-ldl", "-lm"]
        if objects:
            options.append("-DTVMQUANT_STATIC")
            # A model may refer to nothing of libtvm_runtime.so, which loads it all the same; and
            # the device brings the C++ library, this machine need not.
            shared = ["-Wl,--no-as-needed", *map(str, libraries), "-Wl,--as-needed"]
            shared += ["-Wl,--allow-shlib-undefined", "-Wl,-rpath,$ORIGIN"]
            linked = [*map(str, objects), *shared, *linked, "-pthread"]
        compiler.run(*options, "-o", path, assets / "runner.c", *linked)
    path.chmod(0o755)


def model_header(manifest: Manifest, architecture: str) -> str:
    """Text of ``model.h``: what the runner must know of its model."""
    needed = HWCAPS if architecture == "aarch64" else {}
    words = [
        f'{{"{name}", {needed[name][0]}, 1ul << {needed[name][1]}}}'
        for name in manifest.features
        if name in needed
    ]
    return "\n".join(
        [
            f"#define MODEL_NAME {_c_string(manifest.source or 'model')}",
            f"#define MODEL_TARGET {_c_string(manifest.target)}",
            f"#define MODEL_VERSION {_c_string(__version__)}",
            f"#define HAS_PREPARE {int(manifest.expanded_bytes > 0)}",
            "static const struct { const char* name; unsigned long word, mask; } NEEDED[] = {",
            *(f"  {word}," for word in words),
            "  {0}};",
            _specs("INPUTS", manifest.inputs),
            _specs("OUTPUTS", manifest.outputs),
            "",
        ]
    )


def _specs(name: str, infos: Sequence[TensorInfo]) -> str:
    lines = [f"static const Spec {name}[] = {{"]
    for info in infos:
        kind = tvm.DataType(info.dtype)
        dtype = f"{{{int(kind.type_code)}, {int(kind.bits)}, {int(kind.lanes)}}}"
        shape = ", ".join(map(str, info.shape)) or "0"
        descr = _c_string(np.dtype(info.dtype).str)
        lines.append(
            f"  {{{_c_string(info.name)}, {descr}, {dtype}, {len(info.shape)}, {{{shape}}}}},"
        )
    return "\n".join([*lines, "};"])


def _c_string(text: str) -> str:
    """C string literal of any text, as UTF-8."""
    plain = (
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return f'"{"".join(plain)}"'
