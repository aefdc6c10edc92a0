"""Reading calibration data: whatever the user has, one checked batch at a time.

Accepted sources:

- an array, for a model with one input: ``[samples, ...]``, cut into the model's batches;
- a list or any iterable of samples, each a dictionary by input name, a tuple in input order, or
  an array for a model with one input; generators are read once, nothing is held;
- a dictionary of arrays ``[samples, ...]`` by input name;
- a calibration data reader of ONNX Runtime (``get_next``, ``rewind``);
- the path of an ``.npz`` file with such a dictionary.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvmquant.digest import data_digest
from tvmquant.errors import CalibrationError, CalibrationWarning
from tvmquant.frontend.batching import pad_rows, rebatch
from tvmquant.frontend.inputs import InputInfo
from tvmquant.frontend.samples import NotFiniteError, check_sample

Batch = dict[str, np.ndarray]


class CalibrationSource:
    """Calibration data of any accepted kind, readable once from start to end.

    Parameters
    ----------
    data : object
        See the module. Another ``CalibrationSource`` is passed through by :meth:`of`.

    Raises
    ------
    CalibrationError
        ``data`` is of a kind that cannot be read, or its file is missing or damaged.
    """

    def __init__(self, data: Any) -> None:
        self._open = _opener(data)
        self._data = data
        self._file = f"{os.fspath(data)}: " if isinstance(data, str | os.PathLike) else ""
        self._stream: Iterator[Any] | None = None

    @classmethod
    def of(cls, data: Any) -> CalibrationSource:
        """Wrap ``data`` unless it is wrapped already."""
        return data if isinstance(data, cls) else cls(data)

    def peek(self, inputs: Sequence[InputInfo]) -> Batch:
        """First sample, unchecked and not consumed: its shapes can fix those of the model.

        Open dimensions of ``inputs`` are ``None``; whole arrays are cut into samples of one row
        where the batch is open.
        """
        stream = self._samples(inputs)
        first = next(stream, None)
        if first is None:
            raise self._empty()
        # Arrays are cut again once the batch is known; other sources are read only once.
        self._stream = None if self._open.repeatable else itertools.chain([first], stream)
        sample = _by_name(first, inputs, 0)
        ranks = {info.name: len(info.shape) for info in inputs}
        return {
            name: array[None] if array.ndim + 1 == ranks.get(name) else array
            for name, array in sample.items()
        }

    def batches(self, inputs: Sequence[InputInfo]) -> Iterator[Batch]:
        """Checked samples in the shapes and dtypes of ``inputs``.

        Raises
        ------
        CalibrationError
            While iterating: no sample at all, an unknown or missing input, a wrong shape or kind
            of dtype, NaN or infinity in all of them; the message names the input and the sample's
            number. A few samples with NaN or infinity are skipped with a ``CalibrationWarning``.
        """
        stream, self._stream = self._stream or self._samples(inputs), None
        named = (_by_name(sample, inputs, index) for index, sample in enumerate(stream))
        count = used = 0
        skipped: dict[str, list[int]] = {}
        try:
            for count, sample in enumerate(rebatch(named, inputs), 1):
                try:
                    checked = check_sample(sample, inputs, count - 1)
                except NotFiniteError as error:
                    skipped.setdefault(error.name, []).append(count - 1)
                    problem = error
                    continue
                used += 1
                yield checked
        except CalibrationError as error:
            raise CalibrationError(f"{self._file}{error}") from None
        if not count:
            raise self._empty()
        if not used:
            raise CalibrationError(f"{self._file}{problem}, and no sample is left")
        for name, numbers in skipped.items():
            self._warn_skipped(name, numbers)

    def _warn_skipped(self, name: str, numbers: Sequence[int]) -> None:
        listed = ", ".join(map(str, numbers[:8])) + (", …" if len(numbers) > 8 else "")
        plural = "s" if len(numbers) > 1 else ""
        warnings.warn(
            f"{self._file}calibration sample{plural} {listed} skipped: input '{name}' has NaN or "
            "infinite values",
            CalibrationWarning,
            stacklevel=3,
        )

    @property
    def identity(self) -> str | None:
        """SHA-256 of the data; ``None`` where only reading it would tell (generators)."""
        if isinstance(self._data, str | os.PathLike):
            with Path(self._data).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        try:
            return data_digest(self._data)
        except TypeError:
            return None

    def _samples(self, inputs: Sequence[InputInfo]) -> Iterator[Any]:
        try:
            yield from self._open(inputs)
        except CalibrationError as error:
            raise CalibrationError(f"{self._file}{error}") from None

    def _empty(self) -> CalibrationError:
        return CalibrationError(
            f"{self._file}calibration data is empty: give at least one batch of real inputs"
        )


def calibration_batches(data: Any, inputs: Sequence[InputInfo]) -> Iterator[Batch]:
    """Read calibration data.

    Parameters
    ----------
    data : object
        See the module.
    inputs : sequence of InputInfo
        The model's inputs, shapes fixed.

    Yields
    ------
    dict of str to np.ndarray
        One batch by input name, in the model's shapes and dtypes.
    """
    yield from CalibrationSource.of(data).batches(inputs)


def synthetic_batches(
    inputs: Sequence[InputInfo], count: int = 8, seed: int = 0
) -> Iterator[Batch]:
    """Random batches: normal noise for float inputs, 0 and 1 for integer and boolean ones."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield {
            info.name: rng.standard_normal(info.shape).astype(info.dtype)
            if np.dtype(info.dtype).kind == "f"
            else rng.integers(0, 2, info.shape).astype(info.dtype)
            for info in inputs
        }


class _Opener:
    """Makes an iterator of samples; ``repeatable`` when each call starts anew."""

    def __init__(self, make: Callable[..., Iterator[Any]], *, repeatable: bool) -> None:
        self.make, self.repeatable = make, repeatable

    def __call__(self, inputs: Sequence[InputInfo]) -> Iterator[Any]:
        return self.make(inputs)


def _opener(data: Any) -> _Opener:
    if isinstance(data, str | os.PathLike):
        arrays = _read_npz(Path(data))
        return _Opener(lambda inputs: _cut(_named_arrays(arrays, inputs), inputs), repeatable=True)
    if isinstance(data, np.ndarray):
        return _Opener(lambda inputs: _cut(_single(data, inputs), inputs), repeatable=True)
    if isinstance(data, Mapping):
        arrays = {str(name): np.asarray(array) for name, array in data.items()}
        return _Opener(lambda inputs: _cut(arrays, inputs), repeatable=True)
    if hasattr(data, "get_next"):
        return _Opener(lambda inputs: _read_reader(data), repeatable=False)
    if isinstance(data, Iterable):
        return _Opener(lambda inputs: iter(data), repeatable=False)
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


def _single(array: np.ndarray, inputs: Sequence[InputInfo]) -> Batch:
    if len(inputs) != 1:
        names = ", ".join(f"'{info.name}'" for info in inputs)
        raise CalibrationError(
            f"the model has {len(inputs)} inputs ({names}): pass calibration samples as "
            "dictionaries by input name"
        )
    return {inputs[0].name: array}


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


def _by_name(sample: Any, inputs: Sequence[InputInfo], index: int) -> Batch:
    if isinstance(sample, Mapping):
        return {str(name): np.asarray(array) for name, array in sample.items()}
    if isinstance(sample, tuple) or (isinstance(sample, list) and len(inputs) > 1):
        if len(sample) != len(inputs):
            raise CalibrationError(
                f"calibration sample {index} has {len(sample)} arrays, the model has "
                f"{len(inputs)} inputs: " + ", ".join(f"'{info.name}'" for info in inputs)
            )
        return {info.name: np.asarray(array) for info, array in zip(inputs, sample)}
    try:
        array = np.asarray(sample)
    except ValueError as error:
        raise CalibrationError(f"calibration sample {index} is no array: {error}") from None
    if array.dtype.kind in "OUS":
        raise CalibrationError(
            f"calibration sample {index} is a {type(sample).__name__}; pass an array or a "
            "dictionary by input name"
        )
    return _single(array, inputs)
