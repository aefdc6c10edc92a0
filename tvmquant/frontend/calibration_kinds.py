"""The kinds of calibration data, each as a stream of samples.

Accepted sources:

- an array, for a model with one input: ``[samples, ...]``, cut into the model's batches;
- a list or any iterable of samples, each a dictionary by input name, a tuple in input order, or
  an array for a model with one input; generators are read once, nothing is held;
- a dictionary of arrays ``[samples, ...]`` by input name;
- a calibration data reader of ONNX Runtime (``get_next``, ``rewind``);
- the path of an ``.npz`` file with such a dictionary.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvmquant.errors import CalibrationError
from tvmquant.frontend.batching import pad_rows
from tvmquant.frontend.inputs import InputInfo
from tvmquant.frontend.samples import array_of_input

Batch = dict[str, np.ndarray]


class Opener:
    """Makes an iterator of samples; ``repeatable`` when each call starts anew."""

    def __init__(self, make: Callable[..., Iterator[Any]], *, repeatable: bool) -> None:
        self.make, self.repeatable = make, repeatable

    def __call__(self, inputs: Sequence[InputInfo]) -> Iterator[Any]:
        """Samples as the data has them, unchecked."""
        return self.make(inputs)


def opener(data: Any) -> Opener:
    """How to read ``data``.

    Raises
    ------
    CalibrationError
        If it is of no kind that can be read, or its file is missing or damaged.
    """
    if isinstance(data, str | os.PathLike):
        arrays = _read_npz(Path(data))
        return Opener(lambda inputs: _cut(_named_arrays(arrays, inputs), inputs), repeatable=True)
    if isinstance(data, np.ndarray):
        return Opener(lambda inputs: _cut(array_of_input(data, inputs), inputs), repeatable=True)
    if isinstance(data, Mapping):
        arrays = {str(name): np.asarray(array) for name, array in data.items()}
        return Opener(lambda inputs: _cut(arrays, inputs), repeatable=True)
    if hasattr(data, "get_next"):
        return Opener(lambda inputs: _read_reader(data), repeatable=False)
    if isinstance(data, Iterable):
        return Opener(lambda inputs: iter(data), repeatable=False)
    raise CalibrationError(
        f"cannot read calibration data of type {type(data).__name__}: pass an array, a list of "
        "samples, a generator of dictionaries, a CalibrationDataReader or the path of an .npz file"
    )


def _read_npz(path: Path) -> Batch:
    if not path.is_file():
        raise CalibrationError(f"calibration file {path} does not exist")
    try:
        with np.load(path, allow_pickle=False) as stored:
            if isinstance(stored, np.ndarray):
                return {"x": stored}
            return {name: stored[name] for name in stored.files}
    except Exception:  # NumPy, zipfile and zlib each have their own
        raise CalibrationError(
            f"calibration file {path} cannot be read: make it with numpy.savez, plain arrays only"
        ) from None


def _named_arrays(arrays: Batch, inputs: Sequence[InputInfo]) -> Batch:
    """Arrays of a file under the names of the inputs; results stored beside them are left."""
    found = {}
    for info in inputs:
        for key in (info.name, f"in:{info.name}"):
            if key in arrays:
                found[info.name] = arrays[key]
                break
    if not found and len(inputs) == 1 and (len(arrays) == 1 or "x" in arrays):
        return {inputs[0].name: arrays.get("x", next(iter(arrays.values())))}
    if len(found) < len(inputs):
        missing = ", ".join(f"'{info.name}'" for info in inputs if info.name not in found)
        known = ", ".join(f"'{key}'" for key in arrays) or "no arrays at all"
        raise CalibrationError(f"no array for the model's input {missing}; the file has {known}")
    return found


def _cut(arrays: Batch, inputs: Sequence[InputInfo]) -> Iterator[Batch]:
    """Cut arrays of many samples into the model's batches; a last short one is filled up."""
    batch = {info.name: info for info in inputs}
    pieces = {}
    for name, array in arrays.items():
        info = batch.get(name)
        if info is None or not info.shape or array.ndim == 0:
            # Unknown names are reported by the check; a scalar serves every sample.
            pieces[name] = itertools.repeat(array)
            continue
        if array.ndim == len(info.shape) + 1:  # [samples, batch, ...]
            pieces[name] = iter(array)
            continue
        size = info.shape[0] or 1
        pieces[name] = _slices(array, size)
    counted = [name for name, piece in pieces.items() if not isinstance(piece, itertools.repeat)]
    if pieces and not counted:
        yield {name: next(piece) for name, piece in pieces.items()}
        return
    for parts in zip(*pieces.values()):
        yield dict(zip(pieces, parts))


def _slices(array: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(array), size):
        rows = array[start : start + size]
        yield rows if len(rows) == size else pad_rows(rows, size)


def _read_reader(reader: Any) -> Iterator[Any]:
    if hasattr(reader, "rewind"):
        try:
            reader.rewind()
        except NotImplementedError:  # the base class of ONNX Runtime only raises
            pass
    while (sample := reader.get_next()) is not None:
        yield sample
