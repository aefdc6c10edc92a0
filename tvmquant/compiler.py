"""The front door: :func:`compile`, after :func:`tvmquant.quantizer.quantize`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.build import build, workspace_bytes
from tvmquant.build_cuda import check_nvcc
from tvmquant.edges import describe_edges
from tvmquant.errors import InputError
from tvmquant.layers import describe_layers
from tvmquant.ops.integer import shape_of
from tvmquant.passes.calibrate import Progress
from tvmquant.passes.dynamic import is_dynamic
from tvmquant.passes.pipeline import is_quantized, to_device, to_integers
from tvmquant.precision import FLOAT_BITS, HALF_BITS
from tvmquant.quantizer import QuantizedModel, quantize
from tvmquant.recipe import Recipe
from tvmquant.runtime import CompiledModel, LayerInfo, Manifest, TensorInfo, current_versions
from tvmquant.schedules.selection import KernelTable
from tvmquant.schedules.space import TuningDatabase
from tvmquant.targets import Device, get_device
from tvmquant.tuning import Trials, active_database, tune_workloads, workloads_of
from tvmquant.tuning.model import check_runs_here, database_of


def compile(
    model: Any,
    target: Any = "host",
    bits: int | str = 8,
    *,
    calibration: Any = None,
    calibration_cache: str | os.PathLike[str] | None = None,
    recipe: Recipe | str | os.PathLike[str] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    example_inputs: Any = None,
    tune: Trials | int | None = None,
    database: Any = None,
    max_drop: float | None = None,
    dataset: Any = None,
    fatbin: Sequence[str] = (),
    progress: Progress | None = None,
) -> CompiledModel:
    """Quantize a model and compile it for a device.

    Parameters
    ----------
    model : path, onnx.ModelProto, tvm.IRModule, torch.nn.Module or QuantizedModel
        A float model, or one that is quantized already (QDQ or QLinear operators), whose numbers
        are kept.
    target : str, dict, tvm.target.Target or Device
        A name of ``tvmquant devices`` or a TVM target.
    bits : int or str
        8, 4, 2, 1 or a name such as ``"w4a8"``; ignored when ``recipe`` is given. Weights are
        rounded by their effect on the calibration data (:meth:`Recipe.with_corrections`) when
        there is any.
    calibration : object, optional
        Data to choose ranges on: arrays, an iterable of input dictionaries, an ONNX Runtime
        ``CalibrationDataReader`` or the path of an ``.npz``. Without it noise is used, with a
        ``tvmquant.quantizer.SyntheticCalibrationWarning``.
    calibration_cache : path, optional
        Folder where calibration stores what it has seen, by model, recipe and data: when it is
        interrupted it goes on from there, when it is done it is not repeated. Not for generators
        and readers, whose data has no identity before it is read.
    recipe : Recipe or path, optional
        Full control, per layer as well; a name of ``tvmquant.recipes`` or the path of a JSON file.
    input_shapes : mapping of str to sequence of int, optional
        Shapes of inputs with open dimensions.
    example_inputs : tensor or sequence of tensors, optional
        What to trace a torch module with.
    tune : Trials or int, optional
        Measure that many candidates of every distinct layer on this machine first.
    database : path, Database or False, optional
        Measurements of ``tvmquant tune`` to choose kernels by, before those that ship with
        tvmquant; ``False`` (or the environment variable ``TVMQUANT_DATABASE=off``) uses none.
    max_drop : float, optional
        Raise the most sensitive layers to 8 bits until the drop in accuracy on ``dataset`` is no
        larger: percentage points of top-1 below float, or without labels dB of SQNR below the
        same network at 8 bits. ``CompiledModel.max_drop_report`` says which layers and why.
    dataset : path or dict, optional
        ``x`` (or arrays by input name) and ``y``, class numbers, if there are any.
    fatbin : sequence of str, optional
        CUDA architectures that there shall be machine code for beside the target's, for example
        ``["sm_80", "sm_90"]``. Kernels are chosen among those that none of them emulates.
    progress : callable, optional
        ``(stage, done, total)`` for a progress bar.

    Returns
    -------
    CompiledModel

    Raises
    ------
    InputError
        Or a subclass of it that says what is wrong with the model, the data, the target, the
        precision or the recipe.
    AccuracyError
        If even 8 bits in all layers lose more than ``max_drop``.
    """
    device = get_device(target)
    if fatbin:
        device = device.with_fatbin(fatbin)
    if device.cuda is not None:
        check_nvcc()
    trials = _trials(tune, database)
    if trials is not None:
        check_runs_here(device)
    lookup = active_database(database, device)
    options = {
        "calibration": calibration,
        "calibration_cache": calibration_cache,
        "recipe": recipe,
        "input_shapes": input_shapes,
        "example_inputs": example_inputs,
        "progress": progress,
    }
    raised = None
    if max_drop is not None:
        # It compiles candidates itself.
        from tvmquant.analysis.max_drop import meet_max_drop

        quantized, raised = meet_max_drop(model, max_drop, dataset, bits, **options)
    elif isinstance(model, QuantizedModel):
        quantized = model
    else:
        quantized = quantize(model, bits, **options)
    integers = to_integers(quantized.mod, quantized.recipe, progress)
    if trials is not None:
        measured = database_of(trials)
        tune_workloads(workloads_of(integers, device), device, trials, measured, progress)
        lookup = active_database(measured, device)
    compiled = _build(quantized, integers, device, lookup, progress)
    compiled.max_drop_report = raised
    return compiled


def _trials(tune: Trials | int | None, database: Any) -> Trials | None:
    if tune is None:
        return None
    if database is not None:
        raise InputError("give tune=Trials(…, database=…) the database, not compile()")
    return Trials.of(tune)


def _build(
    quantized: QuantizedModel,
    integers: tvm.IRModule,
    device: Device,
    database: TuningDatabase | None,
    progress: Progress | None,
) -> CompiledModel:
    expand = quantized.recipe.expand_weights
    kernels = KernelTable(device, expand=expand, database=database)
    packed, lowered = to_device(integers, kernels, progress)
    if progress:
        progress("build", 0, 1)
    executable = build(lowered, device)
    if progress:
        progress("build", 1, 1)
    function = lowered["main"]
    layers = describe_layers(packed, lowered)
    manifest = Manifest(
        inputs=tuple(
            TensorInfo(info.name, tuple(info.shape), info.dtype) for info in quantized.inputs
        ),
        outputs=_outputs(function, quantized.output_names),
        layers=layers,
        precision=_precision(quantized, layers),
        recipe=quantized.recipe.to_dict(),
        target=device.name,
        target_json=device.target_json,
        features=sorted(device.features),
        versions=current_versions(),
        source=quantized.source,
        expanded_bytes=_bytes(function.params[len(quantized.inputs) :]),
        workspace_bytes=workspace_bytes(lowered),
        edges=describe_edges(quantized.mod),
        cuda_archs=list(device.compiled_archs),
    )
    return CompiledModel.from_build(
        executable, manifest, lambda: build(lowered, device, system_library=True)
    )


def _bytes(params: Sequence[relax.Var]) -> int:
    """Bytes of the parameters of ``main`` that hold expanded constants."""
    return sum(
        int(np.prod(shape_of(param))) * np.dtype(str(param.ty.dtype)).itemsize for param in params
    )


def _outputs(function: relax.Function, names: Sequence[str]) -> tuple[TensorInfo, ...]:
    ty = function.ret_ty
    fields = list(ty.fields) if isinstance(ty, tvm.ir.TupleType) else [ty]
    infos = []
    for name, field in itertools.zip_longest(names, fields):
        if name is None or not isinstance(field, relax.TensorType):
            raise InputError(f"output {name!r} is not a tensor of static shape")
        infos.append(TensorInfo(name, tuple(int(d) for d in field.shape.values), str(field.dtype)))
    return tuple(infos)


def _precision(quantized: QuantizedModel, layers: Sequence[LayerInfo]) -> str:
    recipe = quantized.recipe
    if not is_quantized(quantized.mod):
        half = any(layer.weight_bits == HALF_BITS for layer in layers)
        return recipe.precision if half else "float32"
    pairs = {(la.weight_bits, la.activation_bits) for la in layers if la.macs and la.weight_bits}
    weight_only = bool(pairs) and all(bits in FLOAT_BITS for _, bits in pairs)
    if weight_only and recipe.activations.bits not in FLOAT_BITS:
        # A model that came with quantized weights only: no recipe knew of it.
        return "w{}a{}".format(*min(pairs))
    if is_dynamic(quantized.mod) and not recipe.dynamic:
        return f"{recipe.precision}-dynamic"
    return recipe.precision
