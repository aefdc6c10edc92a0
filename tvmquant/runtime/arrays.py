"""Checking what the user hands to a compiled model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tvmquant.errors import InputError
from tvmquant.runtime.manifest import TensorInfo


def check_array(value: Any, info: TensorInfo) -> np.ndarray:
    """Return ``value`` as a C-contiguous array of exactly the shape and dtype of ``info``.

    Floats convert to floats and integers to integers where every value fits; nothing else does:
    pictures in uint8 handed to a float model are usually a forgotten normalisation.

    Raises
    ------
    InputError
        If the shape or dtype is wrong.
    """
    array = np.asarray(value)
    if array.shape != info.shape:
        raise InputError(
            f"input {info.name!r} has shape {list(array.shape)}, the model takes "
            f"{list(info.shape)}: reshape it or compile with --input-shape"
        )
    wanted = np.dtype(info.dtype)
    if array.dtype != wanted:
        if not _fits(array, wanted):
            raise InputError(
                f"input {info.name!r} has dtype {array.dtype}, the model takes {wanted}: convert "
                "it the way the training data was prepared"
            )
        array = array.astype(wanted)
    return np.asarray(array, order="C")


def check_inputs(
    values: Mapping[str, Any] | Sequence[Any], infos: Sequence[TensorInfo]
) -> list[np.ndarray]:
    """Check all inputs, given by name or in order, and return them in the model's order."""
    names = [info.name for info in infos]
    if isinstance(values, Mapping):
        missing = [name for name in names if name not in values]
        unknown = sorted(str(name) for name in values if name not in names)
        if missing or unknown:
            problems = [
                f"{what} {', '.join(map(repr, which))}"
                for what, which in (("missing", missing), ("unknown", unknown))
                if which
            ]
            raise InputError(
                f"inputs: {'; '.join(problems)}; the model takes {', '.join(map(str, infos))}"
            )
        values = [values[name] for name in names]
    if len(values) != len(names):
        raise InputError(
            f"got {len(values)} inputs, the model takes {len(names)}: {', '.join(map(str, infos))}"
        )
    return [check_array(value, info) for value, info in zip(values, infos)]


def example_inputs(infos: Sequence[TensorInfo], seed: int = 0) -> list[np.ndarray]:
    """Seeded noise for every input: standard normal floats, small integers, booleans."""
    rng = np.random.default_rng(seed)
    arrays = []
    for info in infos:
        dtype = np.dtype(info.dtype)
        if dtype.kind == "b":
            array = rng.random(info.shape) < 0.5
        elif dtype.kind in "iu":
            # 0 and 1 are valid whatever the integers mean, also as an index or a token.
            array = rng.integers(0, 2 if dtype.itemsize > 1 else 128, info.shape)
        else:
            array = rng.standard_normal(info.shape)
        arrays.append(array.astype(dtype))
    return arrays


def _fits(array: np.ndarray, wanted: np.dtype) -> bool:
    if array.dtype.kind == "f" and wanted.kind == "f":
        return True
    if array.dtype.kind in "iu" and wanted.kind in "iu":
        limits = np.iinfo(wanted)
        return array.size == 0 or (array.min() >= limits.min and array.max() <= limits.max)
    return False
