"""Calibration that goes on where it stopped: what the estimators have seen, kept in a folder."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvmquant.errors import CalibrationWarning, InputError

_DONE, _FINISHED, _SAMPLES, _KEY = "_done", "_finished", "_samples", "_key"


@dataclass(frozen=True)
class Progressed:
    """How far a calibration got.

    Attributes
    ----------
    done : int
        Batches that were observed.
    samples : int
        Samples in them.
    finished : bool
    arrays : mapping of str to np.ndarray
        What the estimators have seen.
    """

    done: int
    samples: int
    finished: bool
    arrays: Mapping[str, np.ndarray]


class CalibrationCache:
    """One file a calibration, named by the model, the recipe and the data.

    Parameters
    ----------
    folder : path
        Made when it is missing.
    data : str
        Identity of the data, see ``CalibrationSource.identity``.
    seconds : float
        Between two writes.

    Raises
    ------
    InputError
        If the folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str], data: str, seconds: float = 5) -> None:
        self.folder, self.data, self.seconds = Path(folder), data, seconds
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"calibration cache {folder}: cannot make the folder: {error.strerror}"
            ) from None

    def path(self, model: str) -> Path:
        """File of the annotated graph with the digest ``model``."""
        return self.folder / f"{model[:24]}-{self.data[:24]}.npz"

    def load(self, model: str) -> Progressed | None:
        """What is stored, ``None`` when that is nothing or damaged (which warns)."""
        path = self.path(model)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            if str(arrays.pop(_KEY)) != model + self.data:
                raise ValueError
            done, samples = int(arrays.pop(_DONE)), int(arrays.pop(_SAMPLES))
            return Progressed(done, samples, bool(arrays.pop(_FINISHED)), arrays)
        except Exception:  # NumPy, zipfile and zlib each have their own
            self.warn_damaged(model)
            return None

    def warn_damaged(self, model: str) -> None:
        """Say that the file is of no use."""
        warnings.warn(
            f"calibration cache {self.path(model)} is damaged: calibrating anew",
            CalibrationWarning,
            stacklevel=3,
        )

    def store(self, model: str, progressed: Progressed) -> None:
        """Write, under another name first; a folder that cannot be written to only warns."""
        path = self.path(model)
        marks = {
            _DONE: np.array(progressed.done),
            _SAMPLES: np.array(progressed.samples),
            _FINISHED: np.array(progressed.finished),
            _KEY: np.array(model + self.data),
        }
        temporary = None
        try:
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".tmp", delete=False) as file:
                temporary = file.name
                np.savez_compressed(file, **marks, **progressed.arrays)
            Path(temporary).replace(path)
        except OSError as error:
            warnings.warn(
                f"calibration cache {path}: cannot write: {error.strerror}",
                CalibrationWarning,
                stacklevel=3,
            )
        finally:
            # It is still there after Ctrl-C, too.
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
