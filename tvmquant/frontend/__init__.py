"""Frontend: models and calibration data from outside.

:func:`load_model` takes ONNX, PyTorch and Relax models; :class:`CalibrationSource` takes
calibration data of any kind.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from onnx import ModelProto

from tvmquant.errors import InputError, ModelError
from tvmquant.frontend.calibration_data import (
    CalibrationSource,
    calibration_batches,
    synthetic_batches,
)
from tvmquant.frontend.importer import from_onnx
from tvmquant.frontend.inputs import InputInfo, LoadedModel
from tvmquant.frontend.onnx_model import declared_inputs, load_onnx
from tvmquant.frontend.operators import check_operators
from tvmquant.frontend.relax_model import from_relax
from tvmquant.frontend.shapes import fix_shapes
from tvmquant.frontend.torch_model import export_torch, from_torch, is_torch_module

__all__ = [
    "CalibrationSource",
    "InputInfo",
    "LoadedModel",
    "calibration_batches",
    "declared_inputs",
    "fix_shapes",
    "from_onnx",
    "from_torch",
    "load_model",
    "load_onnx",
    "synthetic_batches",
]


def load_model(
    model: str | os.PathLike[str] | ModelProto | tvm.IRModule | Any,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    sample: Mapping[str, np.ndarray] | CalibrationSource | None = None,
    example_inputs: Sequence[Any] | Any | None = None,
) -> LoadedModel:
    """Load a model into Relax.

    Parameters
    ----------
    model : path, onnx.ModelProto, torch.nn.Module or tvm.IRModule
    input_shapes : mapping of str to sequence of int, optional
        Shape by input name, for inputs with open dimensions (ONNX only).
    sample : mapping of str to np.ndarray or CalibrationSource, optional
        One calibration sample, or the data itself (its first sample is looked at, not consumed):
        fixes the dimensions that are still open.
    example_inputs : tensor or sequence of tensors, optional
        What to trace a torch module with.

    Returns
    -------
    LoadedModel

    Raises
    ------
    InputError
        The model is of a kind that cannot be loaded, or one of its subclasses: ``ModelError``
        for a bad file or open shapes, ``UnsupportedOperatorError`` for operators.
    """
    if isinstance(model, tvm.IRModule):
        return from_relax(model)
    if is_torch_module(model):
        return _load_torch(model, example_inputs)
    if not isinstance(model, str | os.PathLike | ModelProto):
        raise InputError(
            f"cannot load a model of type {type(model).__name__}: pass the path of an .onnx file, "
            "an onnx.ModelProto, a torch.nn.Module or a tvm.IRModule"
        )
    return _load_onnx(model, input_shapes, sample)


def _load_torch(module: Any, example_inputs: Sequence[Any] | Any | None) -> LoadedModel:
    try:
        return _load_onnx(export_torch(module, example_inputs), None, None)
    except ModelError as error:
        # Through ONNX layers have names; torch.export knows other operators.
        with contextlib.suppress(ModelError):
            return from_relax(from_torch(module, example_inputs))
        raise error


def _load_onnx(
    model: str | os.PathLike[str] | ModelProto,
    input_shapes: Mapping[str, Sequence[int]] | None,
    sample: Mapping[str, np.ndarray] | CalibrationSource | None,
) -> LoadedModel:
    loaded = load_onnx(model)
    check_operators(loaded, nested=False)  # before anything is asked about shapes
    if isinstance(sample, CalibrationSource):
        sample = sample.peek(declared_inputs(loaded))
    fixed = fix_shapes(loaded, input_shapes, sample)
    outputs = tuple(value.name for value in fixed.graph.output)
    return LoadedModel(from_onnx(fixed), tuple(declared_inputs(fixed)), outputs)
