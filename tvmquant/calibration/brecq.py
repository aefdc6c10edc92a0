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

import numpy as np
import torch
from torch import Tensor
from tvm import relax

from tvmquant.calibration.brecq_block import BlockRunner, BrecqOptions, LayerWeights

__all__ = ["BlockRunner", "BrecqOptions", "LayerWeights", "Learned", "learn_block"]


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
