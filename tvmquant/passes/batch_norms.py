"""What batch norms know of the tensors that they make, taken before they are folded.

A batch norm scales what it saw in training to mean β and standard deviation γ, so every channel of
its output is known without data (Nagel et al. 2019, "Data-Free Quantization Through Weight
Equalization and Bias Correction", section 4.2.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tvmquant.errors import RecipeError
from tvmquant.graph import Graph, const_value, name_of
from tvmquant.passes.fold_constants import fold_constants

Norms = Mapping[str, "ChannelNorm"]


@dataclass(frozen=True)
class ChannelNorm:
    """Mean and standard deviation of every channel of a tensor, float64 ``[C]``."""

    mean: np.ndarray
    std: np.ndarray

    def divided(self, scale: np.ndarray) -> ChannelNorm:
        """Of the tensor divided by a positive ``scale`` a channel."""
        return ChannelNorm(self.mean / scale, self.std / scale)

    def lowered(self, shift: np.ndarray) -> ChannelNorm:
        """Of the tensor less ``shift``."""
        return ChannelNorm(self.mean - shift, self.std)


def find_batch_norms(mod: tvm.IRModule) -> dict[str, ChannelNorm]:
    """Statistics of every tensor that a batch norm makes, by its name.

    Parameters
    ----------
    mod : tvm.IRModule
        A module as imported. ``simplify`` folds its batch norms into the layers before them; the
        addition of what is left, the bias, keeps their names.
    """
    found: dict[str, ChannelNorm] = {}
    graph = Graph(fold_constants(mod))
    for var, value in graph.bindings:
        if not isinstance(value, relax.TupleGetItem) or value.index != 0:
            continue
        call = graph.value(value.tuple_value)
        if name_of(call) == "nn.batch_norm" and (norm := _norm(call)) is not None:
            found[var.name] = norm
    return found


def require_batch_norms(norms: Norms) -> None:
    """Raise ``RecipeError`` when there is none."""
    if not norms:
        raise RecipeError(
            "the model has no batch norms to take ranges from, its exporter has folded them: "
            "export it with them (torch.onnx.export(…, training=TrainingMode.PRESERVE, "
            "do_constant_folding=False)), or give calibration data and another recipe"
        )


def _norm(call: relax.Call) -> ChannelNorm | None:
    arrays = [const_value(arg) for arg in call.args[1:]]
    if any(array is None for array in arrays):
        return None
    gamma, beta, _, variance = (np.asarray(a, np.float64).reshape(-1) for a in arrays)
    # A channel that is dead before its batch norm stays dead, whatever γ is.
    share = variance / (variance + float(call.attrs["epsilon"]))
    std = np.sqrt(share) * (np.abs(gamma) if call.attrs["scale"] else 1.0)
    mean = beta if call.attrs["center"] else np.zeros_like(beta)
    return ChannelNorm(mean, std)
