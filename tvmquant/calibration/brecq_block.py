"""A block in torch: rounding variables of its layers, fake quantization, evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tvm import relax

from tvmquant.graph import is_const, operands
from tvmquant.interpreter.torch_ops import evaluate
from tvmquant.ops import is_op
from tvmquant.passes.blocks import Block

_ZETA, _GAMMA = 1.1, -0.1


@dataclass(frozen=True)
class BrecqOptions:
    """Schedule of a block.

    Attributes
    ----------
    iterations, batch : int
    rate, scale_rate, shift_rate : float
        Learning rates of Adam for rounding, scales of activations (their logarithm) and shifts of
        the output (in units of its error).
    weight : float
        Of the regularizer, the block's error at the start being the unit.
    warmup, beta : float, tuple of float
        As in ``AdaRoundOptions``.
    drop : float
        Probability of an activation not to be quantized.
    margin : float
        Share of the step to the other level that every weight starts with.
    """

    iterations: int = 300
    batch: int = 16
    rate: float = 0.05
    scale_rate: float = 5e-3
    shift_rate: float = 0.01
    weight: float = 0.2
    warmup: float = 0.2
    beta: tuple[float, float] = (20.0, 2.0)
    drop: float = 0.5
    margin: float = 0.1


@dataclass
class LayerWeights:
    """Weights of one layer.

    Attributes
    ----------
    real : np.ndarray
        float32, before quantization.
    q : np.ndarray
        int8, where to start.
    scale : np.ndarray
        float32, broadcast against ``q``.
    qmin, qmax : np.ndarray
        Lowest and highest level, broadcast against ``q``.
    binary : bool
        Whether the levels are -1 and 1.
    """

    real: np.ndarray
    q: np.ndarray
    scale: np.ndarray
    qmin: np.ndarray
    qmax: np.ndarray
    binary: bool = False


class Rounding:
    """The rounding variables of one layer."""

    def __init__(self, layer: LayerWeights, margin: float) -> None:
        def tensor(array: np.ndarray) -> Tensor:
            return torch.tensor(np.asarray(array, np.float32))

        unit = 2.0 if layer.binary else 1.0
        exact = layer.real / layer.scale
        # The other level lies towards the real weight.
        low = np.where(exact > layer.q, layer.q, layer.q - unit)
        low = np.clip(low, layer.qmin, layer.qmax - unit)
        share = np.where(layer.q > low, 1 - margin, margin)
        self.low, self.unit, self.scale = tensor(low), unit, tensor(layer.scale)
        self.start = tensor(layer.q)
        self.v = tensor(np.log((share - _GAMMA) / (_ZETA - share))).requires_grad_()

    def share(self) -> Tensor:
        """How much of the step up every weight takes, 0 to 1."""
        return (torch.sigmoid(self.v) * (_ZETA - _GAMMA) + _GAMMA).clip(0, 1)

    def soft(self) -> Tensor:
        """Weights while learning."""
        return (self.low + self.unit * self.share()) * self.scale

    def integers(self) -> Tensor:
        """Levels that were decided for."""
        return self.low + self.unit * (self.v >= 0)


class BlockRunner:
    """Evaluates a block in torch.

    Parameters
    ----------
    block : Block
    constants : dict of relax.Var to np.ndarray
        Values of the variables that depend on no layer and no sample.
    layers : dict of relax.Var to LayerWeights
        By the variable of the weight.
    frozen : set of str
        Quantize nodes whose scale must stay.
    options : BrecqOptions
    """

    def __init__(
        self,
        block: Block,
        constants: dict[relax.Var, np.ndarray],
        layers: dict[relax.Var, LayerWeights],
        frozen: set[str],
        options: BrecqOptions,
    ) -> None:
        self.block, self.options = block, options
        self.constants = {var: torch.from_numpy(np.array(a)) for var, a in constants.items()}
        self.rounding = {var: Rounding(layer, options.margin) for var, layer in layers.items()}
        self.shifts: dict[relax.Var, Tensor] = {}
        self.log_scales: dict[relax.Var, Tensor] = {}
        for var, value in block.bindings:
            if is_op(value, "tvmquant.quantize") and var.name not in frozen:
                self.log_scales[var] = torch.zeros((), requires_grad=True)
        self._numbers: dict[Any, Tensor] = {}
        last: dict[relax.Var, relax.Var] = {}
        for var, value in block.bindings:
            for arg in operands(value):
                last[arg] = var
        self._dies: dict[relax.Var, list[relax.Var]] = {}
        for arg, var in last.items():
            self._dies.setdefault(var, []).append(arg)

    def weights(self, kind: str) -> dict[relax.Var, Tensor]:
        """Weights: ``soft`` while learning, ``hard`` as decided, ``start``."""
        make = {
            "soft": Rounding.soft,
            "hard": lambda r: r.integers() * r.scale,
            "start": lambda r: r.start * r.scale,
        }[kind]
        return {var: make(rounding) for var, rounding in self.rounding.items()}

    def run(
        self,
        inputs: dict[relax.Var, Tensor],
        weights: dict[relax.Var, Tensor],
        drop: float = 0.0,
        learned: bool = True,
    ) -> Tensor:
        """Output of the block; ``learned`` uses the learned scales and shifts."""
        env: dict[relax.Var, Any] = {**self.constants, **inputs, **weights}
        ints: dict[relax.Var, relax.Call] = {}
        for var, value in self.block.bindings:
            if is_op(value, "tvmquant.quantize"):
                env[var] = self._fake(var, value, env, drop, learned)
                ints[var] = value
            elif is_op(value, "tvmquant.dequantize") and value.args[0] in ints:
                env[var] = env[value.args[0]]
            else:
                args = [self._argument(arg, env) for arg in getattr(value, "args", ())]
                env[var] = evaluate(value, args)
            if learned and var in self.shifts:
                env[var] = env[var] + self.shifts[var]
            if not torch.is_grad_enabled():
                for dead in self._dies.get(var, ()):
                    env.pop(dead, None)
        return env[self.block.output]

    def _fake(
        self, var: relax.Var, call: relax.Call, env: dict, drop: float, learned: bool
    ) -> Tensor:
        x = self._argument(call.args[0], env)
        scale, zero = (self._argument(arg, env).float() for arg in call.args[1:3])
        if learned and var in self.log_scales:
            scale = scale * torch.exp(self.log_scales[var])
        steps = x / scale
        level = steps + (torch.round(steps) - steps).detach() + zero
        y = (level.clip(float(call.attrs["qmin"]), float(call.attrs["qmax"])) - zero) * scale
        if drop and int(call.attrs["bits"]) < 8:
            y = torch.where(torch.rand_like(y) < drop, x, y)
        return y

    def _argument(self, expr: Any, env: dict) -> Any:
        if isinstance(expr, relax.Var):
            return env[expr]
        if isinstance(expr, relax.Tuple):
            return [self._argument(item, env) for item in expr.fields]
        if is_const(expr):
            if expr not in self._numbers:
                self._numbers[expr] = torch.from_numpy(np.array(expr.value.numpy()))
            return self._numbers[expr]
        return expr
