"""A compiled model from its folder."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import tvm

from tvmquant.errors import BundleError
from tvmquant.runtime.bundle import read_bundle, why_not_runnable
from tvmquant.runtime.compiled_model import CompiledModel


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
    folder = Path(folder)
    manifest, library = read_bundle(folder)
    reason = why_not_runnable(manifest, library)
    if reason:
        raise BundleError(f"cannot run {folder}: {reason}")
    start = time.perf_counter()
    try:
        module = tvm.runtime.load_module(str(library.resolve()))
    except Exception as error:
        last = str(error).strip().splitlines()[-1]
        raise BundleError(f"cannot load {library}: {last}; compile the model again") from None
    model = CompiledModel(manifest, lambda: module, lambda path: shutil.copyfile(library, path))
    model.open_seconds = time.perf_counter() - start
    return model


def open_bundle(folder: str | os.PathLike[str]) -> CompiledModel:
    """As :func:`load`, for a model of another machine: it cannot be run, but saved and exported.

    Raises
    ------
    BundleError
        If the folder is missing or damaged.
    """
    folder = Path(folder)
    manifest, library = read_bundle(folder)

    def refuse() -> Any:
        reason = why_not_runnable(manifest, library)
        if reason is None:
            reason = "it was only opened to be copied: use tvmquant.load"
        raise BundleError(f"cannot run {folder}: {reason}")

    return CompiledModel(manifest, refuse, lambda path: shutil.copyfile(library, path))
