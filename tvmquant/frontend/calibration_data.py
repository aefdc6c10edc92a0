"""Reading calibration data: whatever the user has, one checked batch at a time."""

from __future__ import annotations

import hashlib
import itertools
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvmquant.digest import data_digest
from tvmquant.errors import CalibrationError, CalibrationWarning
from tvmquant.frontend.batching import rebatch
from tvmquant.frontend.calibration_kinds import Batch, opener
from tvmquant.frontend.inputs import InputInfo
from tvmquant.frontend.samples import NotFiniteError, by_name, check_sample


class CalibrationSource:
    """Calibration data of any accepted kind, readable once from start to end.

    Parameters
    ----------
    data : object
        See ``calibration_kinds``. Another ``CalibrationSource`` is passed through by :meth:`of`.

    Raises
    ------
    CalibrationError
        ``data`` is of a kind that cannot be read, or its file is missing or damaged.
    """

    def __init__(self, data: Any) -> None:
        self._open = opener(data)
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
        sample = by_name(first, inputs, 0)
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
        named = (by_name(sample, inputs, index) for index, sample in enumerate(stream))
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
        See ``calibration_kinds``.
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
