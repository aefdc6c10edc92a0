"""Samples of any batch size, cut or gathered to the batch that the model takes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from tvmquant.errors import CalibrationWarning
from tvmquant.frontend.inputs import InputInfo

Batch = dict[str, np.ndarray]


def rebatch(samples: Iterable[Batch], inputs: Sequence[InputInfo]) -> Iterator[Batch]:
    """Pass samples on, those of another batch size as batches of the model's.

    What is left at the end is filled up with samples from the start of it. Arrays that do not fit
    the model's shapes in any other axis pass unchanged, for the check to name them.

    Parameters
    ----------
    samples : iterable of dict of str to np.ndarray
        By input name.
    inputs : sequence of InputInfo
        The model's inputs, shapes fixed.
    """
    size = _batch(inputs)
    rows: list[Batch] = []
    pending = 0
    for sample in samples:
        length = _length(sample, inputs)
        if not size or not length or (not pending and not _fits(length, size)):
            yield sample
            continue
        rows.append(sample)
        pending += length
        while pending >= size:
            batch, rows = _take(rows, size)
            pending -= size
            yield batch
    if pending:
        yield _filled(rows, size)


def pad_rows(array: np.ndarray, size: int) -> np.ndarray:
    """Array of ``size`` rows, repeated from the start; warns."""
    short = size - len(array)
    warnings.warn(
        f"calibration: the last batch has {len(array)} of {size} samples and is filled up by "
        "repeating them",
        CalibrationWarning,
        stacklevel=2,
    )
    return np.concatenate([array, array[np.arange(short) % len(array)]])


def _batch(inputs: Sequence[InputInfo]) -> int:
    """Batch size of the model; 0 when its inputs do not share a first axis."""
    sizes = {info.shape[0] for info in inputs if len(info.shape) > 1}
    return int(sizes.pop() or 0) if len(sizes) == 1 else 0


def _fits(length: int, size: int) -> bool:
    """Whether batches of ``length`` are cut or gathered; the first one decides."""
    return length != size and (length % size == 0 or size % length == 0)


def _length(sample: Mapping[str, np.ndarray], inputs: Sequence[InputInfo]) -> int:
    """Rows of a sample whose arrays all fit the model but for the batch; 0 when they do not."""
    if {info.name for info in inputs} != set(sample):
        return 0
    lengths = set()
    for info in inputs:
        array = sample[info.name]
        if len(info.shape) > 1:
            if array.shape[1:] != tuple(info.shape[1:]) or array.ndim != len(info.shape):
                return 0
            lengths.add(len(array))
    return lengths.pop() if len(lengths) == 1 else 0


def _take(rows: list[Batch], size: int) -> tuple[Batch, list[Batch]]:
    joined = _joined(rows)
    batch = {n: a[:size] if a.ndim > 1 else a for n, a in joined.items()}
    rest = {n: a[size:] if a.ndim > 1 else a for n, a in joined.items()}
    return batch, [rest] if any(len(a) for a in rest.values() if a.ndim > 1) else []


def _filled(rows: list[Batch], size: int) -> Batch:
    return {n: pad_rows(a, size) if a.ndim > 1 else a for n, a in _joined(rows).items()}


def _joined(rows: list[Batch]) -> Batch:
    if len(rows) == 1:
        return rows[0]
    return {
        name: np.concatenate([row[name] for row in rows]) if array.ndim > 1 else array
        for name, array in rows[0].items()
    }
