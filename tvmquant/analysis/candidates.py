"""One network with different layers at 8 bits: quantized in full, or put together of parts.

To quantize a network in full takes as long as rounding all its weights. Yet whether a layer is
good at its bits hardly depends on the bits of the others: what it gets and gives is near the float
values in any case. So of networks that were quantized in full, the layers' weights and corrections
are kept, and another choice of bits is estimated from them.
"""

from __future__ import annotations

import glob
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tvmquant.analysis.correspondence import Correspondence, Layer
from tvmquant.graph import Graph, const_value
from tvmquant.ops import is_op
from tvmquant.passes.correct import Change, apply_changes
from tvmquant.passes.observations import Observations
from tvmquant.precision import FLOAT_BITS
from tvmquant.quant_spec import LayerRule
from tvmquant.quantizer import QuantizedModel, quantize
from tvmquant.recipe import Recipe


@dataclass(frozen=True)
class _Part:
    """A layer as it came out of a quantization in full."""

    q: np.ndarray
    scale: np.ndarray
    shift: np.ndarray | None


class Candidates:
    """Networks in which some layers are raised to 8 bits.

    Parameters
    ----------
    model : object
        The float model, as for :func:`tvmquant.quantize`.
    start : QuantizedModel
        With no layer raised, quantized with ``observations``.
    observations : Observations
    **options
        Of :func:`tvmquant.quantize`, without ``bits`` and ``recipe``.

    Attributes
    ----------
    names : list of str
        The layers that can be raised.
    """

    def __init__(
        self, model: Any, start: QuantizedModel, observations: Observations, **options: Any
    ) -> None:
        self._model, self._recipe, self._options = model, start.recipe, options
        self._observations = observations
        self._in_full: dict[frozenset[str], QuantizedModel] = {frozenset(): start}
        self._parts: dict[tuple[str, float], dict[tuple[int, ...], _Part]] = {}
        self.names = can_be_raised(start)
        self._take_apart(start)

    @property
    def can_estimate(self) -> bool:
        """Whether parts of one network fit another one.

        With a budget of bits, the channels of a network are in an order of its own. And where
        nothing is corrected, quantizing in full is no more work.
        """
        recipe = self._recipe
        corrected = recipe.rounding != "nearest" or recipe.bias_correction != "none"
        return corrected and recipe.average_bits is None

    def in_full(self, names: Sequence[str]) -> QuantizedModel:
        """The network with these layers raised, as its recipe makes it."""
        key = frozenset(names)
        if key not in self._in_full:
            model = self._quantized(with_raised(self._recipe, names))
            if key == frozenset(self.names):
                # Its layers and those of the start are all that there are.
                self._take_apart(model)
                self._in_full[key] = model
            return model
        return self._in_full[key]

    def estimate(self, names: Sequence[str]) -> QuantizedModel:
        """Nearly :meth:`in_full`, in a tenth of the time: weights and corrections are known."""
        recipe = with_raised(self._recipe, names)
        if not self.can_estimate:
            return self.in_full(names)
        model = self._quantized(replace(recipe, rounding="nearest", bias_correction="none"))
        parts = Correspondence(Graph(model.reference), Graph(model.mod))
        changes = {}
        for layer in parts.layers:
            part = self._part(parts, layer)
            if part is not None:
                changes[layer.name] = Change(part.q, part.scale, part.shift)
        return replace(model, mod=apply_changes(model.mod, changes), recipe=recipe)

    def _quantized(self, recipe: Recipe) -> QuantizedModel:
        with warnings.catch_warnings():
            # They were shown for the first one already.
            warnings.simplefilter("ignore")
            return quantize(
                self._model, recipe=recipe, observations=self._observations, **self._options
            )

    def _take_apart(self, model: QuantizedModel) -> None:
        parts = Correspondence(Graph(model.reference), Graph(model.mod))
        for layer in parts.layers:
            constants = _weights(parts, layer)
            if constants is not None:
                found = self._parts.setdefault((layer.name, parts.weight_bits(layer)), {})
                found[_input_bits(layer)] = _Part(*constants, layer.shift)

    def _part(self, parts: Correspondence, layer: Layer) -> _Part | None:
        constants = _weights(parts, layer)
        found = self._parts.get((layer.name, parts.weight_bits(layer)))
        if constants is None or not found:
            return None
        # Weights of these bits, if there are none for inputs of these bits as well.
        part = found.get(_input_bits(layer)) or next(iter(found.values()))
        fits = part.q.shape == constants[0].shape and part.scale.shape == constants[1].shape
        return part if fits else None


def _weights(parts: Correspondence, layer: Layer) -> tuple[np.ndarray, np.ndarray] | None:
    """Integers and scales of a layer's weights."""
    if layer.weight_var is None:
        return None
    node = parts.quantized.value(layer.weight_var)
    if not is_op(node, "tvmquant.dequantize"):
        return None
    q, scale = const_value(node.args[0]), const_value(node.args[1])
    return None if q is None or scale is None else (q, scale)


def _input_bits(layer: Layer) -> tuple[int, ...]:
    return tuple(edge.bits for edge in layer.inputs)


def with_raised(recipe: Recipe, names: Sequence[str]) -> Recipe:
    """Recipe with rules that give these layers 8 bits; float activations stay float."""
    rules = []
    for name in names:
        weight_only = recipe.bits_for(name).activation_bits in FLOAT_BITS
        rules.append(LayerRule(glob.escape(name), 8, None if weight_only else 8))
    return replace(recipe, layers=(*recipe.layers, *rules))


def can_be_raised(model: QuantizedModel) -> list[str]:
    """Names of the layers with weights or inputs of fewer than 8 bits."""
    parts = Correspondence(Graph(model.reference), Graph(model.mod))
    names = []
    for layer in parts.layers:
        if layer.weight is None:
            continue
        weight_bits = parts.weight_bits(layer) or 1
        if min((weight_bits, *(edge.bits for edge in layer.inputs))) < 8:
            names.append(layer.name)
    return names
