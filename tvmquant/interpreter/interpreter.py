"""The evaluation loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.graph import Graph, is_const, operands
from tvmquant.interpreter.fallback import run_with_tvm
from tvmquant.interpreter.float_ops import FLOAT_OPS
from tvmquant.interpreter.integer_ops import INTEGER_OPS
from tvmquant.ops import op_name

Environment = dict[relax.Var, Any]
Tap = Callable[[relax.Var, Any, np.ndarray], None]
EVALUATORS = {**FLOAT_OPS, **INTEGER_OPS}


class Interpreter:
    """Evaluates ``main`` of a module; values are freed after their last use.

    Parameters
    ----------
    mod : tvm.IRModule
        Module in any stage before ``pack``.
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        self.graph = Graph(mod)
        self._mod = mod
        self._constants: dict[Any, np.ndarray] = {}
        last: dict[relax.Var, relax.Var] = {}
        for var, value in self.graph.bindings:
            for arg in operands(value):
                last[arg] = var
        kept = {v for out in self.graph.outputs for v in operands(out)}
        self._dies: dict[relax.Var, list[relax.Var]] = {}
        for arg, var in last.items():
            if arg not in kept:
                self._dies.setdefault(var, []).append(arg)

    def run(self, inputs: Sequence[np.ndarray], tap: Tap | None = None) -> list[np.ndarray]:
        """Evaluate.

        Parameters
        ----------
        inputs : sequence of np.ndarray
            One array for each parameter of ``main``.
        tap : callable, optional
            ``(variable, expression, value)`` after each binding, for observers and debugging.

        Returns
        -------
        list of np.ndarray
            The outputs of ``main``.
        """
        if len(inputs) != len(self.graph.params):
            raise ValueError(f"expected {len(self.graph.params)} inputs, got {len(inputs)}")
        env: Environment = dict(zip(self.graph.params, inputs))
        for var, value in self.graph.bindings:
            result = self.step(var, value, env)
            if tap is not None:
                tap(var, value, result)
        return self.outputs(env)

    def step(self, var: relax.Var, value: Any, env: Environment) -> np.ndarray:
        """Evaluate one binding into ``env`` and drop what it was the last to read."""
        result = self.evaluate(value, env)
        env[var] = result
        for dead in self._dies.get(var, ()):
            env.pop(dead, None)
        return result

    def evaluate(self, value: Any, env: Environment) -> Any:
        """Value of one expression of the graph, whose variables are in ``env``."""
        # Like the compiled module: infinities and NaN are results, not warnings.
        with np.errstate(all="ignore"):
            return self._evaluate(value, env)

    def outputs(self, env: Environment) -> list[np.ndarray]:
        """Outputs of ``main`` after its last step."""
        return [self._argument(out, env) for out in self.graph.outputs]

    def _argument(self, expr: Any, env: Environment) -> Any:
        if isinstance(expr, relax.Var):
            return env[expr]
        if is_const(expr):
            if expr not in self._constants:
                self._constants[expr] = expr.value.numpy()
            return self._constants[expr]
        if isinstance(expr, relax.Tuple):
            return tuple(self._argument(item, env) for item in expr.fields)
        if isinstance(expr, relax.ShapeExpr):
            return tuple(int(v) for v in expr.values)
        if isinstance(expr, relax.TupleGetItem):
            return self._argument(expr.tuple_value, env)[expr.index]
        return expr

    def _evaluate(self, value: Any, env: Environment) -> Any:
        name = op_name(value)
        if name is None:
            return self._argument(value, env)
        args = [self._argument(arg, env) for arg in value.args]
        evaluator = EVALUATORS.get(name)
        if evaluator is not None:
            result = evaluator(args, value)
            if result is not NotImplemented:
                return result
        return run_with_tvm(self._mod, value, args)
