"""Phase 3 without data: every scale and zero point from the batch norms of the network."""

from __future__ import annotations

import warnings
from typing import Any

import tvm
from tvm import relax

from tvmquant.calibration.batch_norm import BatchNormEstimator
from tvmquant.calibration.spread import Spread
from tvmquant.errors import CalibrationWarning
from tvmquant.graph import Graph, name_of
from tvmquant.ops import is_op
from tvmquant.passes.batch_norms import Norms, require_batch_norms
from tvmquant.passes.calibrate import insert_qdq
from tvmquant.passes.coverage import listed
from tvmquant.passes.observers import observed_key
from tvmquant.passes.propagate import propagate
from tvmquant.recipe import Recipe

# Share of the layers that may be without a batch norm.
_BLIND = 0.2


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
    _warn_of_guesses(mod, norms)
    estimators: dict[str, BatchNormEstimator] = {}

    def tap(_var: relax.Var, value: Any, spread: Spread) -> None:
        if is_op(value, "tvmquant.observe"):
            estimators.setdefault(observed_key(value), BatchNormEstimator()).add(spread)

    propagate(mod, norms, tap, recipe.input_range)
    return insert_qdq(mod, estimators, recipe)


def _warn_of_guesses(mod: tvm.IRModule, norms: Norms) -> None:
    """Warn where many layers have no batch norm behind them, as in a transformer."""
    graph = Graph(mod)
    layers = [
        var
        for var, value in graph.bindings
        if name_of(value) in ("nn.conv2d", "matmul")
        and is_op(graph.value(value.args[1]), "tvmquant.observe_weight")
    ]
    blind = [
        var.name
        for var in layers
        if not any(end.name in norms for end in (var, *graph.users.get(var, ())))
    ]
    # A classifier never has one.
    if len(blind) > max(1, _BLIND * len(layers)):
        warnings.warn(
            f"{len(blind)} of {len(layers)} layers have no batch norm ({listed(blind)}): their "
            "ranges are derived from those before them and may be far off; give calibration data "
            "and another recipe if you can",
            CalibrationWarning,
            stacklevel=5,
        )
