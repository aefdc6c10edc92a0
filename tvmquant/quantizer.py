"""From a float model to the QDQ graph: :func:`quantize`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from tvmquant.calibration.cache import CalibrationCache
from tvmquant.errors import CalibrationWarning, RecipeError
from tvmquant.frontend import (
    CalibrationSource,
    InputInfo,
    LoadedModel,
    load_model,
    synthetic_batches,
)
from tvmquant.passes.batch_norms import find_batch_norms
from tvmquant.passes.calibrate import Progress
from tvmquant.passes.correct import wants_corrections
from tvmquant.passes.observations import Observations
from tvmquant.passes.pipeline import ANNOTATED, recorded_stages, to_qdq
from tvmquant.precision import FLOAT_BITS
from tvmquant.recipe import Recipe
from tvmquant.recipes import find_recipe

SYNTHETIC_BATCHES = 8


@dataclass(frozen=True)
class QuantizedModel:
    """A model at the QDQ waist: still float to run, every scale and zero point chosen.

    Attributes
    ----------
    mod : tvm.IRModule
        ``main`` with ``tvmquant.quantize`` and ``tvmquant.dequantize`` nodes.
    inputs : tuple of InputInfo
    output_names : tuple of str
    recipe : Recipe
    source : str
        File name of the model.
    reference : tvm.IRModule or None
        The float program that ``mod`` approximates; its layers have the same names. ``None`` for
        a model that was quantized by others.
    """

    mod: tvm.IRModule
    inputs: tuple[InputInfo, ...]
    output_names: tuple[str, ...]
    recipe: Recipe
    source: str = ""
    reference: tvm.IRModule | None = None


class SyntheticCalibrationWarning(UserWarning):
    """Ranges were chosen on noise: accuracy is not what it could be."""


def quantize(
    model: Any,
    bits: int | str = 8,
    *,
    calibration: Any = None,
    calibration_cache: str | os.PathLike[str] | None = None,
    recipe: Recipe | str | os.PathLike[str] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    example_inputs: Any = None,
    observations: Observations | None = None,
    progress: Progress | None = None,
) -> QuantizedModel:
    """Quantize a model and stop at the QDQ graph.

    Parameters as in :func:`tvmquant.compile`. ``observations`` is shared by several quantizations
    of one model on the same data: what one has seen is not looked at again.
    """
    chosen = chosen_recipe(recipe, bits, calibration is not None)
    if progress:
        progress("import", 0, 1)
    source = None if calibration is None else CalibrationSource.of(calibration)
    loaded = load_model(
        model, input_shapes=input_shapes, sample=source, example_inputs=example_inputs
    )
    if source is None and wants_corrections(chosen) and find_batch_norms(loaded.mod):
        chosen = chosen.without_data()

    cache = _cache(calibration_cache, source)

    def batches() -> Iterator[list[np.ndarray]]:
        for batch in _batches(source, loaded):
            yield [batch[info.name] for info in loaded.inputs]

    total = SYNTHETIC_BATCHES if source is None else _length(calibration)
    real = source is not None
    with recorded_stages() as stages:
        qdq = to_qdq(
            loaded.mod,
            chosen,
            batches,
            progress,
            total,
            real_data=real,
            cache=cache,
            observations=observations,
        )
    name = Path(model).name if isinstance(model, str | os.PathLike) else type(model).__name__
    reference = stages.get(ANNOTATED)
    return QuantizedModel(qdq, loaded.inputs, loaded.output_names, chosen, name, reference)


def chosen_recipe(
    recipe: Recipe | str | os.PathLike[str] | None, bits: int | str, has_data: bool
) -> Recipe:
    """The recipe that was asked for, by default that of ``bits``.

    Parameters
    ----------
    recipe : Recipe, str, path or None
        A recipe, the name of one, or a JSON file.
    bits : int or str
        Precision where there is no ``recipe``.
    has_data : bool
        Whether there is calibration data.

    Raises
    ------
    RecipeError
        If there is no such recipe.
    """
    if recipe is None:
        chosen = Recipe.for_bits(bits)
        # On noise there is nothing to learn, and 8-bit weights of float activations lose nothing.
        exact = chosen.weights.bits == 8 and chosen.activations.bits in FLOAT_BITS
        return chosen.with_corrections() if has_data and not exact else chosen
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, str | os.PathLike):
        return find_recipe(recipe)
    raise RecipeError(f"recipe must be a Recipe, a name or a path, got {type(recipe).__name__}")


def _batches(
    source: CalibrationSource | None, loaded: LoadedModel
) -> Iterator[dict[str, np.ndarray]]:
    if source is not None:
        return source.batches(loaded.inputs)
    other = ", or recipe data_free: the model has batch norms" * bool(find_batch_norms(loaded.mod))
    warnings.warn(
        "no calibration data: ranges are chosen on random noise and accuracy will suffer; pass "
        f"calibration=… (or --calibration X.npz) with a few dozen real inputs{other}",
        SyntheticCalibrationWarning,
        stacklevel=4,
    )
    return synthetic_batches(loaded.inputs, SYNTHETIC_BATCHES)


def _cache(
    folder: str | os.PathLike[str] | None, source: CalibrationSource | None
) -> CalibrationCache | None:
    if folder is None or source is None:
        return None
    identity = source.identity
    if identity is None:
        warnings.warn(
            "calibration_cache is not used: this kind of calibration data has no identity before "
            "it is read; pass arrays, a list of them or the path of an .npz file",
            CalibrationWarning,
            stacklevel=4,
        )
        return None
    return CalibrationCache(folder, identity)


def _length(data: Any) -> int:
    """Number of batches of data that knows its length, 0 when only reading tells."""
    return len(data) if isinstance(data, list | tuple) else 0
