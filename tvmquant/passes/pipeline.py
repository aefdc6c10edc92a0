"""Every pass in order, one line each, and the dump of the module after each of them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np
import tvm

from tvmquant.calibration.cache import CalibrationCache
from tvmquant.errors import InputError
from tvmquant.graph import Graph
from tvmquant.ops import is_op
from tvmquant.passes.absorb import absorb_biases, absorb_norms
from tvmquant.passes.allocate_bits import allocate_bits
from tvmquant.passes.annotate import annotate
from tvmquant.passes.batch_norms import find_batch_norms, require_batch_norms
from tvmquant.passes.calibrate import Progress, calibrate
from tvmquant.passes.calibrate_analytic import calibrate_analytic
from tvmquant.passes.correct import correct, wanted_samples, wants_corrections
from tvmquant.passes.correct_analytic import correct_analytic
from tvmquant.passes.coverage import warn_of_floats, warn_of_rules
from tvmquant.passes.dynamic import quantize_dynamically
from tvmquant.passes.equalize import equalize, equalize_norms, reached
from tvmquant.passes.fuse_additions import fuse_additions
from tvmquant.passes.half import store_half
from tvmquant.passes.lower import lower
from tvmquant.passes.moves import merge_moves
from tvmquant.passes.observations import Observations
from tvmquant.passes.pack import pack
from tvmquant.passes.pair_channels import pair_channels
from tvmquant.passes.realize import realize
from tvmquant.passes.reconstruct import reconstruct, require_torch
from tvmquant.passes.simplify import simplify
from tvmquant.passes.split_widths import split_widths
from tvmquant.passes.weight_only import quantize_weights
from tvmquant.recipe import Recipe
from tvmquant.schedules.selection import KernelTable
from tvmquant.targets.device import Device

Batches = Iterable[list[np.ndarray]]
# The stage whose module still computes in float, with every edge marked.
ANNOTATED = "2_annotate"
_recorded: ContextVar[dict[str, tvm.IRModule] | None] = ContextVar("recorded", default=None)
# Batches that show which biases are high.
_SEEN = 8


def to_qdq(
    mod: tvm.IRModule,
    recipe: Recipe,
    batches: Callable[[], Batches],
    progress: Progress | None = None,
    total: int = 0,
    *,
    real_data: bool = True,
    cache: CalibrationCache | None = None,
    observations: Observations | None = None,
) -> tvm.IRModule:
    """Phases 1 to 3: imported float graph → QDQ graph. A quantized model is only simplified.

    Parameters
    ----------
    mod : tvm.IRModule
    recipe : Recipe
    batches : callable
        Returns the calibration batches; not called for a model that is quantized already, where
        all activations stay float, nor where batch norms tell all that the recipe asks for.
    progress : callable, optional
        ``(stage, done, total)``.
    total : int
        Number of batches, when known.
    real_data : bool
        Whether the batches are data; noise is no reason to round weight-only layers by it.
    cache : CalibrationCache, optional
        Where calibration goes on and stores what it has seen.
    observations : Observations, optional
        What calibrations of the same model on the same data have seen.
    """
    require_torch(recipe)
    _report(progress, "simplify")
    norms = find_batch_norms(mod) if recipe.needs_batch_norms else {}
    mod = _dump("1_simplify", simplify(mod))
    if is_quantized(mod):
        return mod
    simplified = mod
    warn_of_rules(mod, recipe)
    if recipe.needs_batch_norms:
        require_batch_norms(norms)
    stream: Iterator[list[np.ndarray]] | None = None
    # Through ReLU6 with one scale a tensor only: otherwise there is nothing to gain but coarser
    # ranges of activations to lose (0.7 points of a MobileNetV2 at w4a4).
    clips = recipe.weights.granularity == "per_tensor"
    if recipe.equalize and norms:
        mod, norms = absorb_norms(*equalize_norms(mod, norms, clips=clips))
        _dump("1_equalize", mod)
    elif recipe.equalize:
        seen, stream = _first(batches())
        mod = equalize(mod, reached(mod, seen) if clips else None)
        mod = _dump("1_equalize", absorb_biases(mod, seen))
    widths = None
    if recipe.average_bits is not None:
        # Batch norms describe channels in the order that they have.
        seen, stream = _first(stream or batches()) if real_data and not norms else ([], stream)
        mod, widths = allocate_bits(mod, recipe, seen, may_reorder=not norms)
        _dump("1_allocate", mod)
    _report(progress, "annotate")
    annotated = mod = _dump(ANNOTATED, annotate(mod, recipe, widths))
    kept: list[list[np.ndarray]] = []
    if recipe.activations.estimator == "batch_norm" and _is_observed(mod):
        mod = calibrate_analytic(mod, norms, recipe)
        if recipe.needs_data:
            kept = list(itertools.islice(batches(), wanted_samples(annotated, recipe)))
    elif _is_observed(mod):
        limit = wanted_samples(mod, recipe) if wants_corrections(recipe) else 0
        keeping = _keeping(stream or batches(), kept, limit)
        mod = calibrate(mod, keeping, recipe, progress, total, cache, observations)
        # A finished calibration of the cache has read nothing yet.
        for _ in itertools.islice(keeping, limit - len(kept)):
            pass
    elif real_data and wants_corrections(recipe) and is_quantized(quantize_weights(mod, recipe)):
        kept = list(itertools.islice(stream or batches(), wanted_samples(mod, recipe)))
    mod = quantize_weights(quantize_dynamically(mod, recipe), recipe)
    mod = _dump("3_calibrate", store_half(mod, recipe))
    if kept:
        mod = _dump("3_correct", correct(annotated, mod, kept, recipe, progress))
        if recipe.rounding == "brecq":
            mod = _dump("3_reconstruct", reconstruct(annotated, mod, kept, recipe, progress))
    if recipe.bias_correction == "analytic":
        mod = correct_analytic(annotated, mod, norms, recipe)
        _dump("3_correct_analytic", mod)
    warn_of_floats(simplified, mod, recipe)
    return mod


def _first(batches: Batches) -> tuple[list[list[np.ndarray]], Iterator[list[np.ndarray]]]:
    """The first ``_SEEN`` batches, and a stream that still has them all."""
    stream = iter(batches)
    seen = list(itertools.islice(stream, _SEEN))
    return seen, itertools.chain(seen, stream)


def _keeping(
    batches: Batches, kept: list[list[np.ndarray]], limit: int
) -> Iterator[list[np.ndarray]]:
    """Pass batches on and keep the first ``limit`` of them."""
    for batch in batches:
        if len(kept) < limit:
            kept.append(batch)
        yield batch


def to_integers(
    mod: tvm.IRModule, recipe: Recipe, progress: Progress | None = None
) -> tvm.IRModule:
    """Phase 4: QDQ graph → integer operators."""
    _report(progress, "realize")
    return _dump("4_realize", merge_moves(split_widths(realize(mod, recipe))))


def to_device(
    mod: tvm.IRModule, kernels: KernelTable, progress: Progress | None = None
) -> tuple[tvm.IRModule, tvm.IRModule]:
    """Phases 5 and 6: the packed module (for its layers' description) and the lowered one."""
    _report(progress, "pack")
    if wants_pairs(kernels.device):
        mod = pair_channels(mod)
    packed = _dump("5_pack", fuse_additions(pack(mod, kernels), kernels))
    _report(progress, "lower")
    return packed, _dump("6_lower", lower(packed, kernels))


def wants_pairs(device: Device) -> bool:
    """Whether the device multiplies bytes only in pairs whose sum saturates."""
    return "ssse3" in device.features and not device.isa.endswith("vnni")


def _is_observed(mod: tvm.IRModule) -> bool:
    """Whether ``annotate`` marked anything that needs data."""
    return any(is_op(value, "tvmquant.observe") for _, value in Graph(mod).bindings)


def is_quantized(mod: tvm.IRModule) -> bool:
    """Whether ``main`` has quantize or dequantize nodes."""
    waist = ("tvmquant.quantize", "tvmquant.dequantize")
    return any(is_op(value, *waist) for _, value in Graph(mod).bindings)


def _report(progress: Progress | None, stage: str) -> None:
    if progress:
        progress(stage, 0, 1)


@contextmanager
def recorded_stages() -> Iterator[dict[str, tvm.IRModule]]:
    """The modules after each pass, by the name of their dump, of what runs in this context."""
    stages: dict[str, tvm.IRModule] = {}
    token = _recorded.set(stages)
    try:
        yield stages
    finally:
        _recorded.reset(token)


def _dump(name: str, mod: tvm.IRModule) -> tvm.IRModule:
    """Write ``mod`` as text to ``$TVMQUANT_DUMP/name.py``, if that is set."""
    stages = _recorded.get()
    if stages is not None:
        stages[name] = mod
    folder = os.environ.get("TVMQUANT_DUMP")
    if folder:
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            Path(folder, f"{name}.py").write_text(mod.script(), encoding="utf-8")
        except OSError as error:
            raise InputError(f"TVMQUANT_DUMP: cannot write to {folder}: {error.strerror}") from None
    return mod
