"""Range estimators and histograms as named arrays, to store and restore them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tvmquant.calibration.histogram import Histogram

_NUMBERS = (bool, int, float, np.number)


def dump_state(thing: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Everything that ``thing`` has observed, by ``prefix`` and attribute.

    Parameters
    ----------
    thing : object
        With attributes that are numbers, arrays, lists of arrays of one shape, or histograms.
    prefix : str
    """
    arrays: dict[str, np.ndarray] = {}
    for name, value in vars(thing).items():
        key = prefix + name
        if isinstance(value, Histogram):
            arrays.update(dump_state(value, f"{key}."))
        elif isinstance(value, list):
            arrays[key] = np.stack(value) if value else np.zeros(0, np.float32)
        else:
            arrays[key] = np.asarray(value)
    return arrays


def restore_state(thing: Any, arrays: Mapping[str, np.ndarray], prefix: str = "") -> None:
    """The inverse of :func:`dump_state`, on a fresh ``thing``.

    Raises
    ------
    KeyError
        If an attribute is missing.
    """
    for name, value in vars(thing).items():
        key = prefix + name
        if isinstance(value, Histogram):
            restore_state(value, arrays, f"{key}.")
        elif isinstance(value, list):
            setattr(thing, name, list(arrays[key]))
        elif isinstance(value, _NUMBERS):
            setattr(thing, name, type(value)(arrays[key].item()))
        else:
            setattr(thing, name, np.array(arrays[key]))
