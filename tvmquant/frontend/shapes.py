"""Making every input shape static: integer kernels are built for one shape."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto, ValueInfoProto

from tvmquant.errors import CalibrationError, ModelError
from tvmquant.frontend.onnx_model import graph_inputs

_BATCH_NAME = re.compile(r"batch|^(n|b|bs)$", re.IGNORECASE)
_LENGTH_NAME = re.compile(r"seq|len|time|frame|token|height|width", re.IGNORECASE)


def fix_shapes(
    model: ModelProto,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    sample: Mapping[str, np.ndarray] | None = None,
) -> ModelProto:
    """Give every input a static shape.

    An explicit shape wins, then the shape of a calibration sample, then 1 for a dimension that
    looks like the batch. Dimensions that share a symbolic name get the same value.

    Parameters
    ----------
    model : onnx.ModelProto
    input_shapes : mapping of str to sequence of int, optional
        Shape by input name.
    sample : mapping of str to np.ndarray, optional
        One calibration sample by input name.

    Returns
    -------
    onnx.ModelProto
        A copy.

    Raises
    ------
    ModelError
        A name is unknown, a shape contradicts the model, or a dimension stays open; the message
        says which option to pass.
    CalibrationError
        A calibration sample has another rank than the input.
    """
    fixed = ModelProto()
    fixed.CopyFrom(model)
    inputs = {value.name: value for value in graph_inputs(fixed.graph)}
    explicit = _checked(input_shapes or {}, inputs)
    samples = {name: a.shape for name, a in (sample or {}).items() if name in inputs}
    symbols: dict[str, int] = {}
    for name, shape in explicit.items():
        _apply(inputs[name], shape, symbols, "the given shape", ModelError)
    for value in inputs.values():
        _apply_symbols(value, symbols)
    for name, shape in samples.items():
        if name not in explicit:
            _apply(inputs[name], shape, symbols, "the calibration sample", CalibrationError)
    for value in inputs.values():
        _apply_symbols(value, symbols)
        _default_batch(value, symbols)
    for value in inputs.values():
        _apply_symbols(value, symbols)
        _require_static(value)
    return fixed


def _checked(
    shapes: Mapping[str, Sequence[int]], inputs: Mapping[str, ValueInfoProto]
) -> dict[str, tuple[int, ...]]:
    checked = {}
    for name, shape in shapes.items():
        if name not in inputs:
            known = ", ".join(f"'{known}'" for known in inputs)
            raise ModelError(f"the model has no input '{name}'; its inputs are {known}")
        if any(int(dim) != dim or dim < 1 for dim in shape):
            raise ModelError(f"shape of input '{name}' must be positive integers, got {shape}")
        checked[name] = tuple(int(dim) for dim in shape)
    return checked


def _apply(
    value: ValueInfoProto,
    shape: Sequence[int],
    symbols: dict[str, int],
    source: str,
    error: type[Exception],
) -> None:
    """Write ``shape`` into the open dimensions of an input and remember the symbols."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        for _ in shape:
            tensor.shape.dim.add()
    if len(tensor.shape.dim) != len(shape):
        raise error(
            f"input '{value.name}' has {len(tensor.shape.dim)} dimensions {describe(value)}, "
            f"{source} has {len(shape)}: {list(shape)}"
        )
    for axis, (dim, size) in enumerate(zip(tensor.shape.dim, shape)):
        if dim.dim_value > 0:
            # A sample that contradicts a fixed dimension is reported by the data reader, which
            # knows its number; it may also hold several batches.
            if dim.dim_value != size and error is ModelError:
                raise error(
                    f"input '{value.name}' is fixed to {describe(value)} by the model, "
                    f"{source} {list(shape)} differs at axis {axis}"
                )
            continue
        known = symbols.setdefault(dim.dim_param, size) if _is_symbol(dim.dim_param) else size
        if known != size:
            raise error(
                f"input '{value.name}': dimension '{dim.dim_param}' is {size} in {source}, "
                f"but {known} in another input"
            )
        dim.dim_value = known


def _is_symbol(name: str) -> bool:
    # Paddle writes "?" for every open dimension: equal only by accident.
    return bool(re.match(r"[A-Za-z_]", name))


def _apply_symbols(value: ValueInfoProto, symbols: Mapping[str, int]) -> None:
    for dim in value.type.tensor_type.shape.dim:
        if dim.dim_param in symbols:
            dim.dim_value = symbols[dim.dim_param]


def _default_batch(value: ValueInfoProto, symbols: dict[str, int]) -> None:
    for axis, dim in enumerate(value.type.tensor_type.shape.dim):
        named_batch = bool(_BATCH_NAME.search(dim.dim_param))
        first = axis == 0 and not _LENGTH_NAME.search(dim.dim_param)
        if dim.dim_value <= 0 and (named_batch or first):
            if _is_symbol(dim.dim_param):
                symbols.setdefault(dim.dim_param, 1)
            dim.dim_value = 1


def _require_static(value: ValueInfoProto) -> None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise ModelError(
            f"input '{value.name}' has no shape: pass it, for example "
            f"--input-shape {value.name}=1,3,224,224 (input_shapes in Python)"
        )
    if any(dim.dim_value <= 0 for dim in tensor.shape.dim):
        raise ModelError(
            f"input '{value.name}' has open dimensions {describe(value)}: fix them, for example "
            f"--input-shape {value.name}={_example(value)} (input_shapes in Python)"
        )


def describe(value: ValueInfoProto) -> str:
    """Declared dimensions of an input, for messages: ``[1, 3, height, ?]``."""
    dims = value.type.tensor_type.shape.dim
    names = [str(dim.dim_value) if dim.dim_value > 0 else dim.dim_param or "?" for dim in dims]
    return f"[{', '.join(names)}]"


def _example(value: ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    typical = "224" if len(dims) == 4 else "128"
    return ",".join(str(d.dim_value) if d.dim_value > 0 else typical for d in dims)
