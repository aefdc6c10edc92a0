"""Refuse TVM versions that are known to crash or to lack what tvmquant uses."""

from __future__ import annotations

from importlib import metadata

PINS = {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post1"}


def check_versions() -> None:
    """Raise ``ImportError`` with the pip line that mends it unless TVM is the pinned version.

    tvm-ffi 0.1.15 segfaults in ``tvm.ir.save_json`` under TVM 0.27, 0.1.12 lacks a symbol, so
    a wrong version must be refused before ``import tvm``.
    """
    wrong = []
    for package, wanted in PINS.items():
        try:
            found = metadata.version(package)
        except metadata.PackageNotFoundError:
            found = "not installed"
        if found != wanted:
            wrong.append(f"{package}=={wanted} (found: {found})")
    if wrong:
        line = " ".join(f"'{package}=={version}'" for package, version in PINS.items())
        raise ImportError(
            f"tvmquant needs {' and '.join(wrong)}. Mend it with: python -m pip install {line}"
        )
