"""Phase 3 without data: every scale and zero point from the batch norms of the network."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from tvmquant.calibration.batch_norm import BatchNormEstimator
from tvmquant.calibration.spread import Spread
from tvmquant.ops import is_op
from tvmquant.passes.batch_norms import Norms, require_batch_norms
from tvmquant.passes.calibrate import insert_qdq
from tvmquant.passes.observers import observed_key
from tvmquant.passes.propagate import propagate
from tvmquant.recipe import Recipe


def calibrate_analytic(mod: tvm.IRModule, norms: Norms, recipe: Recipe) -> tvm.IRModule:
    """Replace observe nodes by quantize → dequantize.

    Parameters
    ----------
    mod : tvm.IRModule
        Output of ``annotate``.
    norms : mapping of str to ChannelNorm
        Statistics by the name of the tensor (``find_batch_norms``), up to date with what
        equalization did to the weights.
    recipe : Recipe

    Raises
    ------
    RecipeError
        If there are no statistics at all.
    """
    require_batch_norms(norms)
    estimators: dict[str, BatchNormEstimator] = {}

    def tap(_var: relax.Var, value: Any, spread: Spread) -> None:
        if is_op(value, "tvmquant.observe"):
            estimators.setdefault(observed_key(value), BatchNormEstimator()).add(spread)

    propagate(mod, norms, tap, recipe.input_range)
    return insert_qdq(mod, estimators, recipe)
