"""How many bits each output channel's weights get, under a budget for their average.

Banner, Nahshan, Soudry 2019, "Post training 4-bit quantization of convolutional networks for
rapid-deployment", section 4, asks for the widths of least total squared error at a given average.
For real-valued widths the answer is their eq. 11, ``B_i ~ log2(alpha_i^(2/3))``; with the three
widths that kernels have, the best choice is found among all of them on the errors themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tvmquant.calibration.weights import quantize_weight

WIDTHS = (8, 4, 2)
# Channels of one width come in multiples of what kernels compute together.
_BLOCKS = (16, 8, 4, 2, 1)
_LEAST_BLOCKS = 8
_BISECTIONS = 60


@dataclass(frozen=True)
class Split:
    """How many channels of a layer have 8, 4 and 2 bits, and what that costs.

    Attributes
    ----------
    counts : tuple of int
        Channels of each of ``WIDTHS``.
    bits : float
        Average bits.
    error : float
        Total squared error.
    """

    counts: tuple[int, ...]
    bits: float
    error: float

    def widths(self) -> np.ndarray:
        """Bits of every channel, the widest first."""
        return np.repeat(WIDTHS, self.counts)


def channel_errors(
    weight: np.ndarray, axis: int, power: np.ndarray, estimator: str = "mse"
) -> np.ndarray:
    """Expected squared error of every output channel at each of ``WIDTHS``.

    Parameters
    ----------
    weight : np.ndarray
        float32, output channels at ``axis``.
    axis : int
    power : np.ndarray
        Second moment of what every weight of a channel meets, of the shape that the weight has
        with ``axis`` in front and taken off.
    estimator : str
        Of the weights' ranges.

    Returns
    -------
    np.ndarray
        float64 ``[channels, len(WIDTHS)]``.
    """
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    power = power.reshape(-1).astype(np.float64)
    errors = []
    for bits in WIDTHS:
        chosen = "minmax" if bits == 8 else estimator
        q, scale = quantize_weight(rows, bits=bits, axis=0, estimator=chosen)
        errors.append((q * scale.astype(np.float64)[:, None] - rows) ** 2 @ power)
    return np.stack(errors, 1)


def channel_order(errors: Sequence[np.ndarray]) -> np.ndarray:
    """Order of channels that layers share, the one that needs most bits first.

    Parameters
    ----------
    errors : sequence of np.ndarray
        Of :func:`channel_errors`, one for each layer that makes these channels.
    """
    need = np.zeros(len(errors[0]))
    for layer in errors:
        below = layer[:, 1:]
        mean = below.mean(0)
        need += (below / np.where(mean > 0, mean, 1.0)).sum(1)
    return np.argsort(-need, kind="stable")


def block_size(channels: int) -> int:
    """Multiple in which a layer's channels are given a width."""
    fitting = (b for b in _BLOCKS if channels % b == 0 and channels // b >= _LEAST_BLOCKS)
    return next(fitting, 1)


def splits(errors: np.ndarray, block: int | None = None) -> list[Split]:
    """Every way to give ordered channels 8, 4 and 2 bits.

    Parameters
    ----------
    errors : np.ndarray
        Of :func:`channel_errors`, the channels in their order.
    block : int, optional
        Channels that stay together; by default :func:`block_size`.
    """
    channels = len(errors)
    block = block or block_size(channels)
    # Error of the first n channels at every width.
    upto = np.concatenate([np.zeros((1, errors.shape[1])), np.cumsum(errors, 0)])
    found = []
    for wide in range(0, channels + 1, block):
        for middle in range(wide, channels + 1, block):
            counts = (wide, middle - wide, channels - middle)
            bits = float(np.dot(counts, WIDTHS)) / channels
            error = upto[wide, 0] + upto[middle, 1] - upto[wide, 1] + upto[-1, 2] - upto[middle, 2]
            found.append(Split(counts, bits, float(error)))
    return found


def best_split(choices: Sequence[Split], average: float) -> Split:
    """The split of least error within a budget; of equal ones that of fewest bits."""
    allowed = [choice for choice in choices if choice.bits <= average + 1e-9]
    return min(allowed, key=lambda choice: (choice.error, choice.bits))


def best_splits(
    layers: Sequence[Sequence[Split]],
    sizes: Sequence[int],
    energies: Sequence[float],
    average: float,
) -> list[Split]:
    """Splits of layers that share one budget.

    The sum of the layers' relative errors is made small by the method of Lagrange: every layer
    takes what is best at one price of a bit; what is then left of the budget is spent greedily.

    Parameters
    ----------
    layers : sequence of sequence of Split
        The choices of each layer.
    sizes : sequence of int
        Number of weights.
    energies : sequence of float
        What errors of a layer are measured against: the energy of its output.
    average : float
        Bits a weight over all layers, at least 2.
    """
    total = average * sum(sizes) + 1e-6
    bits = [np.array([c.bits for c in choices]) * size for choices, size in zip(layers, sizes)]
    costs = [
        np.array([c.error for c in choices]) / max(energy, 1e-30)
        for choices, energy in zip(layers, energies)
    ]

    def at(price: float) -> list[int]:
        return [int(np.argmin(cost + price * used)) for cost, used in zip(costs, bits)]

    def spent(picked: Sequence[int]) -> float:
        return sum(used[i] for used, i in zip(bits, picked))

    low, high = -60.0, 60.0
    picked = at(2.0**high)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        trial = at(2.0**middle)
        if spent(trial) <= total:
            high, picked = middle, trial
        else:
            low = middle
    left = total - spent(picked)
    while True:
        gains = []
        for index, (cost, used) in enumerate(zip(costs, bits)):
            here = picked[index]
            fits = (used - used[here] <= left) & (cost < cost[here])
            if fits.any():
                best = int(np.argmin(np.where(fits, cost, np.inf)))
                gains.append((cost[here] - cost[best], index, best))
        if not gains:
            return [choices[i] for choices, i in zip(layers, picked)]
        _, index, best = max(gains)
        left -= bits[index][best] - bits[index][picked[index]]
        picked[index] = best
