"""Phase 3: run data through the annotated graph and choose every scale and zero point.

The result is an ordinary QDQ graph that still computes in float.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant import __version__
from tvmquant.calibration import (
    RangeEstimator,
    activation_params,
    quantize_channels,
    quantize_weight,
)
from tvmquant.calibration.cache import CalibrationCache, Progressed
from tvmquant.digest import graph_digest
from tvmquant.errors import CalibrationError
from tvmquant.graph import Builder, Graph, const_value, rewrite
from tvmquant.interpreter import Interpreter
from tvmquant.ops import is_op
from tvmquant.ops.waist import channel_bits, dequantize, quantize
from tvmquant.passes.flat_tails import trim_flat_tails
from tvmquant.passes.observations import Observations
from tvmquant.passes.observers import Observers, observed_key
from tvmquant.recipe import Recipe

Progress = Callable[[str, int, int], None]


def calibrate(
    mod: tvm.IRModule,
    batches: Iterable[list[np.ndarray]],
    recipe: Recipe,
    progress: Progress | None = None,
    total: int = 0,
    cache: CalibrationCache | None = None,
    observations: Observations | None = None,
) -> tvm.IRModule:
    """Replace observe nodes by quantize → dequantize.

    Values that are NaN or infinite, tensors that never vary and outliers are warned of
    (``CalibrationWarning``) and left out of the ranges.

    Parameters
    ----------
    mod : tvm.IRModule
        Output of ``annotate``.
    batches : iterable of list of np.ndarray
        Inputs of ``main`` in order, one list a run; consumed once, and not at all when ``cache``
        has all that is needed.
    recipe : Recipe
    progress : callable, optional
        Called with ``("calibrate", done, total)``.
    total : int
        Number of batches when it is known, for the progress bar.
    cache : CalibrationCache, optional
        Where to go on, and what to write now and then.
    observations : Observations, optional
        What other calibrations on the same data have seen; it takes over what this one sees.

    Raises
    ------
    CalibrationError
        If there are no batches.
    """
    if observations is not None and observations.batches:
        cache = None
    digest = graph_digest(mod, __version__, str(recipe.percentile)) if cache else ""
    observers, done, samples, finished = _resumed(cache, digest, recipe, mod, observations)

    def tap(_var: relax.Var, value: Any, result: np.ndarray) -> None:
        if is_op(value, "tvmquant.observe"):
            observers.see(value, result)

    def store() -> None:
        if cache and done:
            cache.store(digest, Progressed(done, samples, finished, observers.dump()))

    if not finished:
        interpreter = Interpreter(mod)
        stored_at = time.monotonic()
        # A batch that is interrupted has counted in some tensors only: nothing to store.
        whole = True
        try:
            for arrays in itertools.islice(batches, done, None):
                whole = False
                interpreter.run(arrays, tap)
                done += 1
                samples += _samples(arrays)
                whole = True
                if progress:
                    progress("calibrate", done, max(total, done))
                if cache and time.monotonic() - stored_at > cache.seconds:
                    store()
                    stored_at = time.monotonic()
            finished = True
        finally:
            if whole:
                store()
    if not done:
        raise CalibrationError("calibration data is empty: give at least one sample")
    if observations is not None:
        observations.keep(mod, observers, done, samples)
    observers.warn(done, samples)
    return insert_qdq(mod, observers.estimators, recipe)


def _resumed(
    cache: CalibrationCache | None,
    digest: str,
    recipe: Recipe,
    mod: tvm.IRModule,
    observations: Observations | None,
) -> tuple[Observers, int, int, bool]:
    """Observers, batches and samples they have seen, and whether these are all."""
    if observations is not None and observations.batches:
        known, complete = observations.known(mod)
        seen = (observations.batches, observations.samples) if complete else (0, 0)
        return Observers(recipe.percentile, known), *seen, complete
    stored = cache.load(digest) if cache else None
    if stored is not None:
        observers = Observers(recipe.percentile)
        try:
            observers.restore(stored.arrays)
            return observers, stored.done, stored.samples, stored.finished
        except (KeyError, ValueError, TypeError):
            cache.warn_damaged(digest)
    return Observers(recipe.percentile), 0, 0, False


def _samples(arrays: list[np.ndarray]) -> int:
    """Samples of a batch: how long its first input with rows is."""
    return next((len(array) for array in arrays if array.ndim > 1), 1)


def insert_qdq(
    mod: tvm.IRModule, estimators: dict[str, RangeEstimator], recipe: Recipe
) -> tvm.IRModule:
    """Turn observe nodes into QDQ nodes with the ranges of ``estimators``."""
    power_of_two = recipe.requantize == "power_of_two"
    graph = Graph(mod)

    def visit(builder: Builder, var: relax.Var, value: Any) -> Any:
        if is_op(value, "tvmquant.observe_weight"):
            return _weight_node(value, power_of_two)
        if not is_op(value, "tvmquant.observe"):
            return None
        bits = int(value.attrs["bits"])
        symmetric = bool(value.attrs["symmetric"])
        low, high = estimators[observed_key(value)].range(bits, symmetric)
        if not str(value.attrs["group"]):
            low, high = trim_flat_tails(graph, var, low, high)
        scale, zero = activation_params(low, high, bits, symmetric, power_of_two)
        scale_const = relax.const(np.asarray(scale, np.float32))
        zero_const = relax.const(np.asarray(zero, np.uint8))
        call = quantize(
            value.args[0],
            scale_const,
            zero_const,
            bits=bits,
            qmin=0,
            qmax=2**bits - 1,
            dtype="uint8",
        )
        q = builder.emit(call, f"{var.name}/int")
        return dequantize(q, scale_const, zero_const, bits=bits)

    return rewrite(mod, visit)


def _weight_node(value: relax.Call, power_of_two: bool) -> relax.Call:
    attrs = value.attrs
    bits, axis = int(attrs["bits"]), int(attrs["axis"])
    options = {"estimator": str(attrs["estimator"]), "power_of_two": power_of_two}
    weight, widths = const_value(value.args[0]), channel_bits(value)
    if widths:
        q, scale = quantize_channels(weight, widths, axis=axis, **options)
    else:
        granularity = str(attrs["granularity"])
        q, scale = quantize_weight(weight, bits=bits, axis=axis, granularity=granularity, **options)
    constants = map(relax.const, (q, scale, np.zeros(scale.shape, np.int8)))
    return dequantize(*constants, bits=bits, axis=axis, channel_bits=widths)
