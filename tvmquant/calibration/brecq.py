"""Rounding of all layers of a block, learned on what the block gives (needs torch).

Li et al. 2021, "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction":
the error is that of the block's output, not of each layer's. Wei et al. 2022, "QDrop: Randomly
Dropping Quantization for Extremely Low-bit Post-Training Quantization": while learning, activations
are quantized with probability one half, and their scales are learned. Rounding variables as in
``adaround``, started from integers that are good for every layer alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
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


@dataclass
class Learned:
    """What came out for a block; empty where nothing was better than the start.

    Attributes
    ----------
    q, shift : dict of str to np.ndarray
        int8 weights and float32 ``[channels]`` to be added, by layer.
    scale : dict of str to float
        Scales of activations by the name of the quantize node.
    before, after : float
        Mean squared error of the block's output.
    """

    q: dict[str, np.ndarray] = field(default_factory=dict)
    shift: dict[str, np.ndarray] = field(default_factory=dict)
    scale: dict[str, float] = field(default_factory=dict)
    before: float = 0.0
    after: float = 0.0


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


def learn_block(
    runner: BlockRunner,
    quantized: dict[relax.Var, np.ndarray],
    real: dict[relax.Var, np.ndarray],
    target: np.ndarray,
    shifted: Sequence[relax.Var],
    seed: int = 0,
) -> tuple[Learned, np.ndarray]:
    """Learn the rounding, scales and shifts of one block.

    Parameters
    ----------
    runner : BlockRunner
    quantized, real : dict of relax.Var to np.ndarray
        Inputs of the block in the quantized and in the float network, samples first.
    target : np.ndarray
        Output of the block in the float network.
    shifted : sequence of relax.Var
        Layers whose bias may change.
    seed : int

    Returns
    -------
    Learned
    np.ndarray
        Output of the block as it is now, samples first.
    """
    options = runner.options
    wanted = torch.from_numpy(target)
    inputs = {var: torch.from_numpy(a) for var, a in quantized.items()}
    floats = {var: torch.from_numpy(a) for var, a in real.items()}
    start = _all(runner, inputs, "start", learned=False)
    result = Learned(before=_error(start, wanted))
    result.after = result.before
    unit = max(result.before, 1e-20)
    if not (runner.rounding or runner.log_scales) or not math.isfinite(unit):
        return result, start.numpy()
    for var in shifted:
        channels = int(var.ty.shape.values[-1])
        runner.shifts[var] = torch.zeros(channels, requires_grad=True)
    torch.manual_seed(seed)
    groups = [
        {"params": [r.v for r in runner.rounding.values()], "lr": options.rate},
        {"params": list(runner.log_scales.values()), "lr": options.scale_rate},
        {"params": list(runner.shifts.values()), "lr": options.shift_rate * math.sqrt(unit)},
    ]
    adam = torch.optim.Adam([group for group in groups if group["params"]])
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, options.iterations)
    count = sum(r.v.numel() for r in runner.rounding.values())
    for step in range(options.iterations):
        chosen = torch.randint(len(wanted), (min(options.batch, len(wanted)),))
        mixed = {}
        for var, x in inputs.items():
            mixed[var] = x[chosen]
            if options.drop and var in floats:
                keep = torch.rand_like(mixed[var]) < options.drop
                mixed[var] = torch.where(keep, floats[var][chosen], mixed[var])
        output = runner.run(mixed, runner.weights("soft"), options.drop)
        loss = ((output - wanted[chosen]) ** 2).mean() / unit
        loss = loss + options.weight * _regularizer(runner, step, options) / max(count, 1)
        adam.zero_grad()
        loss.backward()
        adam.step()
        decay.step()
    final = _all(runner, inputs, "hard")
    after = _error(final, wanted)
    if not after < result.before:
        return result, start.numpy()
    result.after = after
    result.q = {v.name: r.integers().numpy().astype(np.int8) for v, r in runner.rounding.items()}
    result.shift = {v.name: s.detach().numpy() for v, s in runner.shifts.items()}
    result.scale = {v.name: float(s.detach().exp()) for v, s in runner.log_scales.items()}
    return result, final.numpy()


def _regularizer(runner: BlockRunner, step: int, options: BrecqOptions) -> Tensor | float:
    done = step / options.iterations - options.warmup
    if done < 0:
        return 0.0
    swing = 0.5 * (1 + math.cos(math.pi * done / (1 - options.warmup)))
    beta = options.beta[1] + (options.beta[0] - options.beta[1]) * swing
    return sum((1 - (2 * r.share() - 1).abs() ** beta).sum() for r in runner.rounding.values())


@torch.no_grad()
def _all(
    runner: BlockRunner, inputs: dict[relax.Var, Tensor], kind: str, *, learned: bool = True
) -> Tensor:
    weights = runner.weights(kind)
    length = len(next(iter(inputs.values())))
    parts = []
    for first in range(0, length, runner.options.batch):
        piece = {var: x[first : first + runner.options.batch] for var, x in inputs.items()}
        parts.append(runner.run(piece, weights, learned=learned))
    return torch.cat(parts)


def _error(output: Tensor, wanted: Tensor) -> float:
    return float(((output - wanted).double() ** 2).mean())
