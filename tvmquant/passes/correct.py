"""Corrections after calibration: what quantization did to each layer's output is made good.

Works on the QDQ graph with the float graph beside it. Layers go in order, so that each sees the
input that the corrected layers before it really give.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.calibration.adaround import adaround
from tvmquant.calibration.block_scales import BlockScales
from tvmquant.calibration.columns import weight_rows, weights_of_rows
from tvmquant.calibration.gptq import gptq
from tvmquant.calibration.moments import moments
from tvmquant.graph import Builder, Graph, const_value, name_of, rewrite
from tvmquant.interpreter.lockstep import LinearLayer, Lockstep
from tvmquant.ops.integer import shape_of
from tvmquant.passes.fold_affine import per_channel
from tvmquant.recipe import Recipe

Progress = Callable[[str, int, int], None]
# Samples that go through the layers together, and the bytes that one activation of all may take.
SAMPLES = 64
# Blocks of many layers would learn fewer by heart.
BLOCK_SAMPLES = 512
_BYTES = 256 << 20


@dataclass
class Change:
    """What becomes of a layer: other weights, their scales, a shift of its output's channels."""

    q: np.ndarray | None = None
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None


def wants_corrections(recipe: Recipe) -> bool:
    """Whether the recipe asks for anything that this pass does."""
    return recipe.rounding != "nearest" or recipe.bias_correction == "empirical"


def correct(
    original: tvm.IRModule,
    quantized: tvm.IRModule,
    samples: Sequence[Sequence[np.ndarray]],
    recipe: Recipe,
    progress: Progress | None = None,
) -> tvm.IRModule:
    """Round weights by their effect on the output and correct biases, layer by layer.

    Parameters
    ----------
    original : tvm.IRModule
        Output of ``annotate``.
    quantized : tvm.IRModule
        What ``calibrate`` made of it.
    samples : sequence of sequence of np.ndarray
        Inputs of ``main``; at most ``sample_limit(original)`` are used.
    recipe : Recipe
        ``rounding`` chooses the method; ``bias_correction`` adds the mean error that
        remains to the bias (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization
        and Bias Correction", section 4.2, the empirical form).
    progress : callable, optional
        Called with ``("correct", done, total)``.
    """
    changes: dict[str, Change] = {}
    total = sum(1 for _, value in Graph(quantized).bindings if _is_layer(value))
    chosen = samples[: sample_limit(original)]
    for layer in Lockstep(original, quantized, chosen).layers():
        changes[layer.var.name] = _correct_layer(layer, recipe)
        if progress:
            progress("correct", len(changes), max(total, len(changes)))
    return apply_changes(quantized, changes)


def sample_limit(mod: tvm.IRModule, most: int = SAMPLES) -> int:
    """How many samples may go through the layers of a graph together, at most ``most``."""
    largest = max(
        (
            4 * int(np.prod(shape_of(var)))
            for var, _ in Graph(mod).bindings
            if isinstance(var.ty, relax.TensorType)
        ),
        default=1,
    )
    return max(8, min(most, _BYTES // largest))


def wanted_samples(mod: tvm.IRModule, recipe: Recipe) -> int:
    """How many samples corrections use."""
    return sample_limit(mod, BLOCK_SAMPLES if recipe.rounding == "brecq" else SAMPLES)


def _is_layer(value: Any) -> bool:
    return name_of(value) in ("nn.conv2d", "matmul")


def _correct_layer(layer: LinearLayer, recipe: Recipe) -> Change:
    change = Change()
    rows = weight_rows(layer, layer.weight_float).astype(np.float64)
    data = moments(layer)
    if recipe.weights.bits == recipe.activations.bits == 8:
        # What is wrong with 8-bit inputs are the few values that were clipped. To make good for
        # them moves the outputs of all others: a transformer lost ten times more by it.
        data = data.with_target_of(rows)
    data = data.shrunk(rows)
    groups, outputs, depth = rows.shape
    if layer.block:
        scale = layer.scale.T[None].astype(np.float64)
    else:
        scale = np.broadcast_to(layer.scale.astype(np.float64), (groups * outputs,))
        scale = scale.reshape(groups, outputs, 1)
    spread = BlockScales(layer.block or depth, depth)
    q = weight_rows(layer, layer.q)
    bits: int | np.ndarray = layer.bits
    if layer.channel_bits is not None:
        bits = layer.channel_bits.reshape(groups, outputs)
    fewest = np.min(bits)
    if recipe.rounding == "adaround" and 1 < fewest < 8:
        q = adaround(rows, spread.steps(scale), bits, data)
    elif recipe.rounding in ("gptq", "brecq"):
        # One scale for all channels, or one that is a power of two, stays as it is. Among 256
        # levels a better scale gains nothing.
        refit = layer.scale.size == scale.size and recipe.requantize != "power_of_two"
        refit = refit and fewest < 8
        q, scale = gptq(rows, scale, bits, data, refit=refit, block=spread.size)
        fitted = scale[0].T if layer.block else scale.reshape(-1)
        change.scale = np.ascontiguousarray(fitted, np.float32) if refit else layer.scale
    if recipe.rounding != "nearest":
        change.q = weights_of_rows(layer, q)
        change.scale = layer.scale if change.scale is None else change.scale
        layer.set_weights(change.q, change.scale)
    if recipe.bias_correction == "empirical":
        change.shift = data.shift(q * spread.steps(scale)).astype(np.float32)
        layer.set_shift(change.shift)
    return change


def apply_changes(mod: tvm.IRModule, changes: dict[str, Change]) -> tvm.IRModule:
    """QDQ graph with changed layers, by name; the biases take the shifts."""
    graph = Graph(mod)
    weights = {
        graph.values[var].args[1]: change
        for var, value in graph.bindings
        if (change := changes.get(var.name)) is not None and change.q is not None
    }
    # A bias that is there already takes the shift.
    biased: dict[relax.Var, np.ndarray] = {}
    for var, _ in graph.bindings:
        change = changes.get(var.name)
        if change is None or change.shift is None:
            continue
        users = graph.users.get(var, [])
        if len(users) == 1 and graph.num_uses(var) == 1 and _bias(graph, users[0], var) is not None:
            biased[users[0]] = change.shift
            change.shift = None

    def visit(builder: Builder, var: relax.Var, value: Any) -> Any:
        weight = weights.get(var)
        if weight is not None:
            args = [relax.const(weight.q), relax.const(weight.scale), value.args[2]]
            return relax.Call(value.op, args, value.attrs)
        if var in biased:
            bias = const_value(value.args[1])
            shifted = bias.reshape(-1) + biased[var]
            return relax.op.add(value.args[0], relax.const(shifted.astype(np.float32)))
        change = changes.get(var.name)
        if change is not None and change.shift is not None:
            return relax.op.add(builder.emit(value, var.name), relax.const(change.shift))
        return None

    return rewrite(mod, visit)


def _bias(graph: Graph, user: relax.Var, linear: relax.Var) -> np.ndarray | None:
    value = graph.values[user]
    if name_of(value) != "add" or not value.args[0].same_as(linear):
        return None
    return per_channel(value.args[1], shape_of(value))
