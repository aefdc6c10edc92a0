"""``CompiledModel.debug``: the integers that are really executed, against the float model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from tvmquant.analysis.decibel import OutputNoise
from tvmquant.analysis.measure import Progress
from tvmquant.analysis.report import SensitivityReport
from tvmquant.analysis.sensitivity import SAMPLES, KeptSamples, measured
from tvmquant.edges import describe_edges
from tvmquant.errors import InputError
from tvmquant.quantizer import QuantizedModel, quantize
from tvmquant.recipe import Recipe
from tvmquant.runtime import CompiledModel
from tvmquant.runtime.manifest import EdgeInfo

# Integers are equal bit for bit; float operators around them need not be.
_SAME_DB = 40.0


def debug(
    compiled: CompiledModel,
    model: Any,
    data: Any,
    *,
    calibration: Any = None,
    samples: int = SAMPLES,
    progress: Progress | None = None,
    **options: Any,
) -> SensitivityReport:
    """Compare a compiled model with its float original, layer by layer.

    A compiled model holds neither float weights nor names of inner tensors. So its float model is
    quantized once more by the recipe in the manifest, the ranges are compared with those of the
    manifest, and the compiled model is run beside the result, which it equals (bit for bit, but for
    float operators); so what is reported of the inner tensors is true of the compiled model.

    Parameters
    ----------
    compiled : CompiledModel
    model : object
        The float model, as for :func:`tvmquant.compile`, or the ``QuantizedModel`` that was
        compiled, which needs no calibration.
    data : object
        Inputs to compare on, of which the first ``samples`` batches are used.
    calibration : object, optional
        The data that the model was calibrated on, ``data`` if there is none.
    samples : int
    progress : callable, optional
        ``(stage, done, total)``.
    **options
        As for :func:`tvmquant.quantize`; shapes are those of the compiled model.

    Returns
    -------
    SensitivityReport

    Raises
    ------
    InputError
        If the model or the calibration data is not what the compiled model was made of.
    """
    kept = KeptSamples(data, samples)
    if not isinstance(model, QuantizedModel):
        shapes = {info.name: info.shape for info in compiled.inputs}
        model = quantize(
            model,
            recipe=_recipe(compiled),
            calibration=kept.all() if calibration is None else calibration,
            progress=progress,
            **{"input_shapes": shapes, **options},
        )
    _check_edges(compiled, describe_edges(model.mod))

    def check(inputs: list[np.ndarray], outputs: list[np.ndarray]) -> None:
        result = compiled(*inputs)
        results = result if isinstance(result, tuple) else (result,)
        noise = OutputNoise()
        noise.update(outputs, results)
        if noise.db < _SAME_DB:
            raise InputError(
                "the outputs of the compiled model are not what its recipe makes of this model "
                "and data: give the float model and the calibration data that it was compiled from"
            )

    return measured(model, kept.first(model.inputs), progress, check).report(executed=True)


def _recipe(compiled: CompiledModel) -> Recipe:
    return Recipe.from_json(json.dumps(compiled.manifest.recipe))


def _check_edges(compiled: CompiledModel, edges: Sequence[EdgeInfo]) -> None:
    """Raise ``InputError`` naming the first tensor that is quantized in another way."""
    expected = {(edge.kind, edge.name, edge.bits): edge for edge in compiled.manifest.edges}
    for edge in edges:
        other = expected.get((edge.kind, edge.name, edge.bits))
        if other is None or not _same(edge, other):
            raise InputError(
                f"tensor {edge.name!r} is quantized in another way than in the compiled model: "
                "give the float model and the calibration data that it was compiled from"
            )


def _same(a: EdgeInfo, b: EdgeInfo) -> bool:
    # Through JSON tuples become lists.
    pairs = ((a.shape, b.shape), (a.scale, b.scale), (a.zero_point, b.zero_point))
    return all((x is None) == (y is None) and list(x or ()) == list(y or ()) for x, y in pairs)
