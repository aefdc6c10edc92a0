"""Between simplification and annotation: every output channel gets its own number of bits.

An average-bits budget (``Recipe.average_bits``) becomes widths from {2, 4, 8} for the channels of
every dense layer. Channels are put in order of their need wherever that is free
(``channel_spaces.py``), so that those of one width lie side by side and nothing has to be moved
at run time: layers that write to one residual stream share an order, and each has its own cuts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tvm
from tvm import relax

from tvmquant.calibration.allocation import (
    WIDTHS,
    Split,
    best_split,
    best_splits,
    channel_errors,
    channel_order,
    splits,
)
from tvmquant.graph import Graph, const_value, name_of
from tvmquant.interpreter import Interpreter
from tvmquant.ops.integer import shape_of
from tvmquant.passes.channel_spaces import ChannelSpaces, is_dense, reorder
from tvmquant.passes.regions import Regions
from tvmquant.recipe import Recipe

Samples = Sequence[Sequence[np.ndarray]]


def allocate_bits(
    mod: tvm.IRModule, recipe: Recipe, samples: Samples = (), *, may_reorder: bool = True
) -> tuple[tvm.IRModule, dict[str, np.ndarray]]:
    """Choose the widths of all layers and reorder channels accordingly.

    Layers whose bits a rule or ``first_last_bits`` sets are left out, of the budget as well.
    Depthwise and grouped layers have few weights and kernels that could not be split with profit:
    all their channels get the width nearest to the budget (the larger of two equally near).

    Parameters
    ----------
    mod : tvm.IRModule
        Output of ``simplify``.
    recipe : Recipe
        With ``average_bits``; ``share_bits`` makes the budget one for all layers.
    samples : sequence of sequence of np.ndarray
        Inputs of ``main``: errors of weights count as much as the inputs that they meet. Without
        samples all inputs count the same.
    may_reorder : bool
        Whether channels may be put in another order.

    Returns
    -------
    mod : tvm.IRModule
    widths : dict
        Layer → bits of each output channel, integer ``[channels]``.
    """
    spaces = ChannelSpaces(mod)
    layers = _layers(mod, recipe)
    power = _input_power(mod, samples, centred=recipe.bias_correction != "none")
    errors, energies = {}, {}
    for var in layers:
        value = spaces.graph.values[var]
        if not is_dense(value):
            continue
        weight = const_value(value.args[1])
        axis = 0 if name_of(value) == "nn.conv2d" else 1
        met = _met(weight, axis, power.get(var.name))
        errors[var] = channel_errors(weight, axis, met, recipe.weights.estimator)
        rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64)
        energies[var] = float((rows**2 @ met.reshape(-1)).sum())
    orders = _orders(spaces, errors) if may_reorder else {}
    choices, own = {}, {}
    for var, table in errors.items():
        shared = orders.get(spaces.space(var))
        own[var] = channel_order([table]) if shared is None else shared
        choices[var] = splits(table[own[var]])
    widths = {}
    for var, split in _chosen(choices, energies, spaces.graph, recipe).items():
        made = split.widths()
        if spaces.space(var) not in orders:
            made[own[var]] = split.widths()
        widths[var.name] = made
    for var in layers:
        if var.name not in widths:
            nearest = min(WIDTHS, key=lambda bits: (abs(bits - recipe.average_bits), -bits))
            widths[var.name] = np.full(shape_of(var)[-1], nearest)
    return reorder(mod, spaces, orders), widths


def _layers(mod: tvm.IRModule, recipe: Recipe) -> list[relax.Var]:
    """Layers that run in integers and whose bits nothing but the recipe's default decides."""
    regions = Regions(mod, recipe)
    first, last = regions.layer_order()
    found = []
    for var in regions.weighted:
        edge = recipe.first_last_bits is not None and (var in first or var in last)
        if not edge and not recipe.sets_weight_bits(var.name):
            found.append(var)
    return found


def _input_power(mod: tvm.IRModule, samples: Samples, centred: bool) -> dict:
    """Second moment of every input channel of every layer.

    About the mean where biases are corrected, since a constant error of the output then costs
    nothing.
    """
    sums: dict[relax.Var, list] = {}
    interpreter = Interpreter(mod)
    layers = {v: e.args[0] for v, e in interpreter.graph.bindings if is_dense(e)}
    wanted = set(layers.values())

    def add(var: relax.Var, array: np.ndarray) -> None:
        flat = np.asarray(array, np.float64).reshape(-1, array.shape[-1])
        total = sums.setdefault(var, [0, 0.0, 0.0])
        total[0] += len(flat)
        total[1] = total[1] + flat.sum(0)
        total[2] = total[2] + (flat**2).sum(0)

    def tap(var: relax.Var, _value: object, result: np.ndarray) -> None:
        if var in wanted:
            add(var, result)

    for arrays in samples:
        for param, array in zip(interpreter.graph.params, arrays):
            if param in wanted:
                add(param, array)
        interpreter.run(arrays, tap)
    moments = {}
    for var, source in layers.items():
        if source in sums:
            count, first, second = sums[source]
            moments[var.name] = second / count - (first / count) ** 2 * centred
    return moments


def _met(weight: np.ndarray, axis: int, power: np.ndarray | None) -> np.ndarray:
    """Second moment of what each weight of a channel meets."""
    shape = np.moveaxis(weight, axis, 0).shape[1:]
    if power is None:
        return np.ones(shape)
    # An input that never varied on these samples may on others.
    floor = 1e-3 * power.mean() + 1e-30
    return np.broadcast_to(np.maximum(power, floor), shape)


def _orders(spaces: ChannelSpaces, errors: dict) -> dict[relax.Var, np.ndarray]:
    makers: dict[relax.Var, list[np.ndarray]] = {}
    for var, table in errors.items():
        if spaces.is_free(var):
            makers.setdefault(spaces.space(var), []).append(table)
    return {space: channel_order(tables) for space, tables in makers.items()}


def _chosen(
    choices: dict[relax.Var, list[Split]], energies: dict, graph: Graph, recipe: Recipe
) -> dict[relax.Var, Split]:
    budget = recipe.average_bits
    if not recipe.share_bits:
        return {var: best_split(found, budget) for var, found in choices.items()}
    sizes = [int(np.prod(shape_of(graph.values[var].args[1]))) for var in choices]
    picked = best_splits(list(choices.values()), sizes, [energies[v] for v in choices], budget)
    return dict(zip(choices, picked))
