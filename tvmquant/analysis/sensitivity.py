"""``sensitivity``: quantize a model and say what every layer costs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from tvmquant.analysis.measure import Measurement, Progress
from tvmquant.analysis.report import SensitivityReport
from tvmquant.errors import CalibrationError
from tvmquant.frontend import CalibrationSource, InputInfo
from tvmquant.quantizer import QuantizedModel, quantize
from tvmquant.recipe import Recipe

SAMPLES = 16


def sensitivity(
    model: Any,
    bits: int | str = 8,
    *,
    calibration: Any,
    recipe: Recipe | str | os.PathLike[str] | None = None,
    samples: int = SAMPLES,
    progress: Progress | None = None,
    **options: Any,
) -> SensitivityReport:
    """Quantize a model and measure what every layer does to its output.

    Parameters
    ----------
    model : object
        Anything that :func:`tvmquant.compile` takes, or what :func:`tvmquant.quantize` returned.
    bits, recipe, **options
        As for :func:`tvmquant.quantize`; ignored for a model that is quantized already.
    calibration : object
        Data to choose ranges on (all of it) and to measure on (its first ``samples``).
    samples : int
        Batches to measure on.
    progress : callable, optional
        ``(stage, done, total)``.

    Returns
    -------
    SensitivityReport

    Raises
    ------
    InputError
        As :func:`tvmquant.compile`, and where there is no float model to compare with.
    """
    data = KeptSamples(calibration, samples)
    if not isinstance(model, QuantizedModel):
        model = quantize(
            model,
            bits,
            calibration=data.all(),
            recipe=recipe,
            progress=progress,
            **options,
        )
    return measured(model, data.first(model.inputs), progress).report()


def measured(
    model: QuantizedModel,
    batches: Sequence[list[np.ndarray]],
    progress: Progress | None = None,
    check: Callable[[list[np.ndarray], list[np.ndarray]], None] | None = None,
    layers: Collection[str] | None = None,
) -> Measurement:
    """Measure on all batches.

    ``check`` gets the inputs and the integer network's outputs; ``layers`` are the names of those
    that are quantized alone, by default all.
    """
    measurement = Measurement(model)
    per_batch = len(measurement.pairing.parts.layers if layers is None else layers)
    for index, inputs in enumerate(batches):

        def report(done: int, before: int = index * per_batch) -> None:
            if progress:
                progress("measure", before + done, len(batches) * per_batch)

        outputs = measurement.add(inputs, report, layers)
        if check is not None:
            check(inputs, outputs)
    return measurement


class KeptSamples:
    """Calibration data of any kind, of which the first batches are needed once more.

    Parameters
    ----------
    data : object
        As for :func:`tvmquant.compile`.
    count : int
        Batches to keep.
    """

    def __init__(self, data: Any, count: int) -> None:
        if data is None:
            raise CalibrationError(
                "nothing to measure on: give calibration=… (or --calibration X.npz) with a few "
                "real inputs"
            )
        if count < 1:
            raise CalibrationError(f"samples must be at least 1, got {count}")
        self._count = count
        self._kept: list[Any] = []
        if hasattr(data, "get_next"):
            data = iter(data.get_next, None)
        self._stream = data if isinstance(data, Iterator) else None
        self._data = data

    def all(self) -> Any:
        """Everything, for calibration; a stream is read only once."""
        return self._data if self._stream is None else self._passing()

    def _passing(self) -> Iterator[Any]:
        for sample in self._stream:
            if len(self._kept) < self._count:
                self._kept.append(sample)
            yield sample

    def first(self, inputs: Sequence[InputInfo]) -> list[list[np.ndarray]]:
        """The first batches, checked, in the order of ``inputs``."""
        if self._stream is not None and not self._kept:
            self._kept = list(itertools.islice(self._stream, self._count))
        data = self._data if self._stream is None else self._kept
        stream = CalibrationSource.of(data).batches(inputs)
        return [
            [batch[info.name] for info in inputs] for batch in itertools.islice(stream, self._count)
        ]
