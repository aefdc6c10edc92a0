"""Corrections without data: what quantization does to layers, as batch norms predict it.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section
4.2: weights that are off by ε shift a layer's output by ε·E[x] (eq. 17). E[x] comes from the
distribution of the input, through any activation function (eq. 20 is the one of a ReLU). What
clipping an activation does to its mean is left out: it hangs on tails, of which least is known.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.calibration.spread import Spread
from tvmquant.graph import Graph, const_value, is_const, name_of
from tvmquant.passes.batch_norms import Norms, require_batch_norms
from tvmquant.passes.correct import Change, apply_changes
from tvmquant.passes.fold_constants import evaluate_constant
from tvmquant.passes.linear_spread import expected
from tvmquant.passes.propagate import is_nhwc, propagate
from tvmquant.passes.round_analytic import round_analytic
from tvmquant.recipe import Recipe


def correct_analytic(
    original: tvm.IRModule, quantized: tvm.IRModule, norms: Norms, recipe: Recipe
) -> tvm.IRModule:
    """Round weights by their effect, and add to every bias what quantization takes from the mean.

    Parameters
    ----------
    original : tvm.IRModule
        Output of ``annotate``.
    quantized : tvm.IRModule
        The QDQ graph made of it; layers correspond by name.
    norms : mapping of str to ChannelNorm
        As for ``calibrate_analytic``.
    recipe : Recipe
        Weights below 8 bits are rounded where it ``rounds_analytically``.

    Raises
    ------
    RecipeError
        If there are no statistics at all.
    """
    require_batch_norms(norms)
    before, after = Graph(original), Graph(quantized)
    layers = {var.name: value for var, value in after.bindings if _is_layer(value)}
    floats = {var.name: value for var, value in before.bindings if var.name in layers}
    inputs = {call.args[0].name for call in floats.values()}
    seen: dict[str, Spread] = {}

    def tap(var: relax.Var, _value: Any, spread: Spread) -> None:
        if var.name in inputs:
            seen[var.name] = spread

    propagate(original, norms, tap, recipe.input_range)
    # Widths of single channels have been chosen for what they are rounded to.
    rounds = recipe.rounds_analytically and recipe.average_bits is None
    refit = recipe.requantize != "power_of_two"
    changes: dict[str, Change] = {}
    for name, call in floats.items():
        x, node = seen.get(call.args[0].name), after.value(layers[name].args[1])
        weight, rounded = _weight(before.value(call.args[1])), _weight(node)
        if x is None or weight is None or rounded is None:
            continue
        change = changes[name] = Change()
        new = round_analytic(call, node, weight, x, refit) if rounds else None
        if new is not None:
            change.q, change.scale = new
            axis = (-1, 1, 1, 1) if weight.ndim == 4 else (1, -1)
            rounded = change.q * change.scale.reshape(axis)
        error = rounded.astype(np.float64) - weight
        change.shift = -expected(call, error, x.mean).astype(np.float32)
    return apply_changes(quantized, changes)


def _is_layer(value: Any) -> bool:
    return name_of(value) == "matmul" or (name_of(value) == "nn.conv2d" and is_nhwc(value))


def _weight(node: Any) -> np.ndarray | None:
    """The float value of a weight, quantized or not; ``None`` when it is no constant."""
    if name_of(node) == "tvmquant.observe_weight":
        node = node.args[0]
    if name_of(node) == "tvmquant.dequantize":
        node = evaluate_constant(node)
    if node is None or not is_const(node):
        return None
    weight = const_value(node)
    return weight if weight.ndim in (2, 4) else None
