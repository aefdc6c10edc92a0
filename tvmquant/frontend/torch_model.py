"""PyTorch modules: exported to ONNX, or, where that fails, through ``torch.export``."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import onnx
import tvm
from onnx import ModelProto

from tvmquant.errors import InputError, ModelError
from tvmquant.frontend.messages import first_line

_OPSET = 17


def is_torch_module(model: Any) -> bool:
    """Whether ``model`` looks like a ``torch.nn.Module`` (torch itself is not imported)."""
    return hasattr(model, "state_dict") and hasattr(model, "forward")


def export_torch(module: Any, example_inputs: Sequence[Any] | Any | None) -> ModelProto:
    """Trace a module to ONNX, in evaluation mode; nodes are called after their submodule.

    Parameters
    ----------
    module : torch.nn.Module
    example_inputs : tensor or sequence of tensors
        Their shapes become the model's shapes.

    Raises
    ------
    InputError
        torch is not installed, or ``example_inputs`` is missing.
    ModelError
        The module cannot be traced.
    """
    torch, examples = _import_torch(), _as_tuple(example_inputs)
    names = [name for name, _ in zip(inspect.signature(module.forward).parameters, examples)]
    buffer = io.BytesIO()
    try:
        with _evaluation(torch, module):
            torch.onnx.export(
                module,
                examples,
                buffer,
                input_names=names,
                output_names=["output"],
                opset_version=_OPSET,
                dynamo=False,
                # The module is in evaluation mode; "preserve" keeps its batch norms, from which
                # quantization without data takes its ranges. We fold constants ourselves.
                training=torch.onnx.TrainingMode.PRESERVE,
                do_constant_folding=False,
            )
    except Exception as error:
        # The exporter passes on whatever the traced code raises.
        raise ModelError(f"cannot export the torch module to ONNX: {first_line(error)}") from error
    return onnx.load_from_string(buffer.getvalue())


def from_torch(module: Any, example_inputs: Sequence[Any] | Any | None) -> tvm.IRModule:
    """Convert a module through ``torch.export``, in evaluation mode; weights are constants.

    The way for modules that :func:`export_torch` cannot trace; layers have generated names.

    Raises
    ------
    InputError, ModelError
        As in :func:`export_torch`.
    """
    torch, examples = _import_torch(), _as_tuple(example_inputs)
    from tvm.relax.frontend.torch import from_exported_program

    try:
        with _evaluation(torch, module):
            program = torch.export.export(module, examples)
            return from_exported_program(program, unwrap_unit_return_tuple=True)
    except Exception as error:
        raise ModelError(f"cannot convert the torch module: {first_line(error)}") from error


def _import_torch() -> ModuleType:
    try:
        import torch
    except ImportError:
        raise InputError(
            "the model is a torch module, but PyTorch is not installed: python -m pip install torch"
        ) from None
    return torch


def _as_tuple(example_inputs: Sequence[Any] | Any | None) -> tuple:
    if example_inputs is None:
        raise InputError(
            "a torch module needs example inputs, for example "
            "example_inputs=torch.randn(1, 3, 224, 224)"
        )
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs)
    return (example_inputs,)


@contextlib.contextmanager
def _evaluation(torch: ModuleType, module: Any) -> Iterator[None]:
    """Evaluation mode without gradients and chatter; the module's mode is restored."""
    training = {name: part.training for name, part in module.named_modules()}
    level = logging.root.manager.disable
    module.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            with contextlib.redirect_stdout(io.StringIO()):
                yield
    finally:
        logging.disable(level)
        for name, part in module.named_modules():
            part.training = training[name]
