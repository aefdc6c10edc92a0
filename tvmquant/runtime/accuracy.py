"""Accuracy of a classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from tvmquant.errors import InputError
from tvmquant.runtime.arrays import check_array
from tvmquant.runtime.manifest import TensorInfo


class Classifier(Protocol):
    """What :func:`top1` needs of a model: one input, the scores as first output."""

    inputs: tuple[TensorInfo, ...]

    def __call__(self, *arrays: Any) -> np.ndarray | tuple[np.ndarray, ...]:
        """Scores ``[batch, classes]``, or a tuple that starts with them."""


def top1(
    model: Classifier,
    x: np.ndarray,
    y: np.ndarray,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> float:
    """Share of the samples whose highest score is their class.

    Parameters
    ----------
    model : CompiledModel
        One input ``[batch, ...]``; the first output has ``batch`` rows of scores.
    x : numpy.ndarray
        Samples ``[n, ...]``, prepared as the model takes them. The last batch is filled up with
        zeros, which are not counted.
    y : numpy.ndarray
        Class numbers ``[n]``, any integer dtype.
    progress : callable, optional
        Called as ``progress("evaluate", done, n)``.

    Raises
    ------
    InputError
        If the model is not a classifier of one input, or ``x`` and ``y`` do not fit it.
    """
    info = _input_of(model)
    x, y = np.asarray(x), np.asarray(y)
    if y.ndim != 1 or y.dtype.kind not in "iu" or len(y) == 0:
        raise InputError(f"y must hold one class number a sample, got {y.dtype} {list(y.shape)}")
    if x.shape[:1] != y.shape or x.shape[1:] != info.shape[1:]:
        raise InputError(
            f"x has shape {list(x.shape)}, expected {[len(y), *info.shape[1:]]} "
            f"(as many samples as y has, each as input {info.name!r})"
        )
    batch, right = info.shape[0], 0
    for start in range(0, len(y), batch):
        chunk, labels = x[start : start + batch], y[start : start + batch]
        if len(chunk) < batch:
            chunk = np.concatenate([chunk, np.zeros((batch - len(chunk), *x.shape[1:]), x.dtype)])
        result = model(check_array(chunk, info))
        scores = result[0] if isinstance(result, tuple) else result
        if scores.ndim < 2 or scores.shape[0] != batch:
            raise InputError(
                f"the first output has shape {list(scores.shape)}, top-1 needs [{batch}, classes]"
            )
        found = scores.reshape(batch, -1).argmax(axis=1)[: len(labels)]
        right += int((found == labels).sum())
        if progress is not None:
            progress("evaluate", start + len(labels), len(y))
    return right / len(y)


def _input_of(model: Classifier) -> TensorInfo:
    infos = model.inputs
    if len(infos) != 1 or not infos[0].shape:
        raise InputError(
            f"top-1 needs a model with one batched input, this one has "
            f"{'; '.join(map(str, infos)) or 'none'}"
        )
    return infos[0]
