"""One calibration sample: its arrays by input name, checked against the model's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tvmquant.errors import CalibrationError
from tvmquant.frontend.inputs import InputInfo


class NotFiniteError(CalibrationError):
    """A sample has NaN or infinite values: it is skipped where there are others."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name


def by_name(sample: Any, inputs: Sequence[InputInfo], index: int) -> dict[str, np.ndarray]:
    """Arrays of a sample, which is a dictionary, arrays in the order of ``inputs``, or one array.

    Raises
    ------
    CalibrationError
        Names the sample by its ``index``.
    """
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
    return array_of_input(array, inputs)


def array_of_input(array: np.ndarray, inputs: Sequence[InputInfo]) -> dict[str, np.ndarray]:
    """An array as that of the model's only input."""
    if len(inputs) != 1:
        names = ", ".join(f"'{info.name}'" for info in inputs)
        raise CalibrationError(
            f"the model has {len(inputs)} inputs ({names}): pass calibration samples as "
            "dictionaries by input name"
        )
    return {inputs[0].name: array}


def check_sample(
    sample: Mapping[str, np.ndarray], inputs: Sequence[InputInfo], index: int
) -> dict[str, np.ndarray]:
    """Sample with every input in its shape and dtype.

    Only conversions that keep the values pass: float64 to float32, integers that fit. A missing
    leading dimension of length 1 is added.

    Parameters
    ----------
    sample : mapping of str to np.ndarray
    inputs : sequence of InputInfo
    index : int
        Number of the sample, for messages.

    Raises
    ------
    CalibrationError
        Names the input, the sample, what was expected and what was found; NaN and infinity raise
        :class:`NotFiniteError`.
    """
    known = [info.name for info in inputs]
    unknown = [name for name in sample if name not in known]
    if unknown:
        raise CalibrationError(
            f"calibration sample {index} has an array '{unknown[0]}', but the model's inputs are "
            + ", ".join(f"'{name}'" for name in known)
        )
    checked = {}
    for info in inputs:
        if info.name not in sample:
            raise CalibrationError(f"calibration sample {index} has no array for {info}")
        checked[info.name] = _check(np.asarray(sample[info.name]), info, index)
    return checked


def _check(array: np.ndarray, info: InputInfo, index: int) -> np.ndarray:
    shape = info.shape
    if array.shape != shape:
        if (1, *array.shape) != shape:
            raise CalibrationError(
                f"calibration sample {index}: {info} got an array of shape {list(array.shape)}, "
                f"expected {list(shape)}"
            )
        array = array[None]
    converted = _convert(array, np.dtype(info.dtype))
    if converted is None:
        hint = ""
        if array.dtype == np.uint8 and np.dtype(info.dtype).kind == "f":
            hint = "; scale raw pixels as the model was trained (for example x / 255) first"
        raise CalibrationError(
            f"calibration sample {index}: {info} got {array.dtype} values, expected "
            f"{info.dtype}{hint}"
        )
    if converted.dtype.kind == "f" and not np.isfinite(converted).all():
        raise NotFiniteError(
            f"calibration sample {index}: {info} has NaN or infinite values", info.name
        )
    return converted


def _convert(array: np.ndarray, dtype: np.dtype) -> np.ndarray | None:
    """Array in ``dtype``, ``None`` when that could change values."""
    if array.dtype == dtype:
        return array
    # Low-bit ONNX integers of ml_dtypes are void or custom kinds to NumPy.
    integer = array.dtype.kind in "iub" or array.dtype.name.startswith(("int", "uint"))
    if array.dtype.kind == "f" and dtype.kind == "f":
        with np.errstate(over="ignore"):  # an overflow is reported as infinite
            return array.astype(dtype)
    if integer and dtype.kind in "iu" and array.dtype.kind != "b":
        converted = array.astype(dtype)
        return converted if np.array_equal(converted.astype(np.int64), array) else None
    return None
