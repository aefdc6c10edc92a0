"""The values of a QDQ graph beside those of the float program that it approximates.

What both have can be had as a float value, everything else is evaluated from there. So any part of
the quantized graph can be run on float inputs, and the rest of the float program on what it gives.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from tvm import relax

from tvmquant.analysis.correspondence import Correspondence, Layer
from tvmquant.errors import InputError
from tvmquant.graph import operands
from tvmquant.interpreter import Interpreter
from tvmquant.quantizer import QuantizedModel


class Pairing:
    """Both graphs of a quantized model, on the same inputs.

    Parameters
    ----------
    model : QuantizedModel

    Attributes
    ----------
    parts : Correspondence
    reference, quantized : Interpreter
        Of the float program and of the QDQ graph.

    Raises
    ------
    InputError
        If the model came quantized: there is no float program to compare with.
    """

    def __init__(self, model: QuantizedModel) -> None:
        if model.reference is None:
            raise InputError(
                f"{model.source or 'the model'} was quantized by others: there are no float "
                "values to compare with; give the float model"
            )
        self.reference = Interpreter(model.reference)
        self.quantized = Interpreter(model.mod)
        self.parts = Correspondence(self.reference.graph, self.quantized.graph)
        self._constants: dict[relax.Var, Any] = {}

    def float_values(self, inputs: Sequence[np.ndarray]) -> dict[relax.Var, Any]:
        """Every value of the float program."""
        env: dict[relax.Var, Any] = dict(zip(self.reference.graph.params, inputs))
        for var, value in self.reference.graph.bindings:
            env[var] = self.reference.evaluate(value, env)
        return env

    def quantized_value(self, var: relax.Var, env: dict[relax.Var, Any]) -> Any:
        """What the quantized graph makes of the float values up to ``var``."""
        if var in self.parts.known:
            return env[self.parts.known[var]]
        return self._own_value(var, env)

    def _own_value(self, var: relax.Var, env: dict[relax.Var, Any]) -> Any:
        if var in self._constants:
            return self._constants[var]
        value = self.quantized.graph.values[var]
        needed = list(operands(value))
        local = {arg: self.quantized_value(arg, env) for arg in needed}
        result = self.quantized.evaluate(value, local)
        if all(arg in self._constants for arg in needed):
            self._constants[var] = result
        return result

    def only(self, layer: Layer, env: dict[relax.Var, Any]) -> list[np.ndarray]:
        """Outputs of the float program in which this layer alone is quantized."""
        result = self._own_value(layer.var, env)
        if layer.shift is not None:
            result = result + layer.shift
        changed: dict[relax.Var, Any] = {layer.reference: result}
        both: Any = ChainMap(changed, env)
        for var, value in self._after[layer.reference]:
            changed[var] = self.reference.evaluate(value, both)
        return self.reference.outputs(both)

    @cached_property
    def _after(self) -> dict[relax.Var, list[tuple[relax.Var, Any]]]:
        """For every layer the bindings of the float program that depend on it."""
        found = {}
        for layer in self.parts.layers:
            reached, bindings = {layer.reference}, []
            for var, value in self.reference.graph.bindings:
                if var not in reached and any(arg in reached for arg in operands(value)):
                    reached.add(var)
                    bindings.append((var, value))
            found[layer.reference] = bindings
        return found
