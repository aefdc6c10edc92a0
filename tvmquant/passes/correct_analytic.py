"""Bias correction without data: the mean error of every output channel, as batch norms predict it.

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
from tvmquant.passes.fold_constants import evaluate_constant
from tvmquant.passes.linear_spread import expected
from tvmquant.passes.propagate import is_nhwc, propagate
from tvmquant.passes.shift_biases import shift_biases


def correct_analytic(
    original: tvm.IRModule,
    quantized: tvm.IRModule,
    norms: Norms,
    input_range: tuple[float, float] | None = None,
) -> tvm.IRModule:
    """Add to every layer's bias what quantization takes from its mean output.

    Parameters
    ----------
    original : tvm.IRModule
        Output of ``annotate``.
    quantized : tvm.IRModule
        The QDQ graph made of it; layers correspond by name.
    norms : mapping of str to ChannelNorm
        As for ``calibrate_analytic``.
    input_range : tuple of float, optional
        As for ``propagate``.

    Raises
    ------
    RecipeError
        If there are no statistics at all.
    """
    require_batch_norms(norms)
    layers = {
        var.name: value
        for var, value in Graph(quantized).bindings
        if name_of(value) == "matmul" or (name_of(value) == "nn.conv2d" and is_nhwc(value))
    }
    floats = {var.name: value for var, value in Graph(original).bindings if var.name in layers}
    inputs = {call.args[0].name: None for call in floats.values()}
    seen: dict[str, Spread] = {}

    def tap(var: relax.Var, _value: Any, spread: Spread) -> None:
        if var.name in inputs:
            seen[var.name] = spread

    propagate(original, norms, tap, input_range)
    graph = Graph(quantized)
    shifts: dict[str, np.ndarray] = {}
    for name, call in floats.items():
        spread = seen.get(call.args[0].name)
        weight = _weight(Graph(original), call)
        if spread is None or weight is None:
            continue
        rounded = _weight(graph, layers[name])
        if rounded is None:
            continue
        error = rounded.astype(np.float64) - weight
        shifts[name] = -expected(call, error, spread.mean).astype(np.float32)
    return shift_biases(quantized, shifts)


def _weight(graph: Graph, call: relax.Call) -> np.ndarray | None:
    """The float value of a layer's weight, quantized or not; ``None`` when it is no constant."""
    node = graph.value(call.args[1])
    if name_of(node) == "tvmquant.observe_weight":
        node = node.args[0]
    if name_of(node) == "tvmquant.dequantize":
        node = evaluate_constant(node)
    if node is None or not is_const(node):
        return None
    weight = const_value(node)
    return weight if weight.ndim in (2, 4) else None
