"""What can be proven about the integers of a Winograd kernel.

Transformed activations and weights must fit their operand type. Sums may wrap modulo 2**32, only
the outputs, before the final shift, must not. They are centred for that: stored activations lie
in ``0 … x_max``, so ``sum(x * w)`` differs from ``x_max / 2 * sum(w)`` by at most
``x_max / 2 * sum(|w|)``, whatever the zero point and the bias, which come later.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvmquant.schedules.winograd.algorithms import Algorithm
from tvmquant.schedules.workload import Workload


def weight_bound(weight: np.ndarray) -> int:
    """``Workload.max_abs_sum`` of int weights ``[O, ...]``.

    The largest sum of magnitudes of one output channel, rounded up to a power of two, so that
    layers of one shape share their kernel.
    """
    sums = np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(axis=1)
    return 1 << (max(1, int(sums.max())) - 1).bit_length()


def largest_weight(bits: int) -> int:
    """Largest magnitude of a weight."""
    return 1 if bits == 1 else 1 << (bits - 1)


def outputs_fit(workload: Workload, algorithm: Algorithm) -> bool:
    """Whether every scaled and centred output is proven to fit int32."""
    return output_radius(workload) << algorithm.shift < 1 << 31


def output_radius(workload: Workload) -> int:
    """Bound on the magnitude of a centred output before the bias."""
    bound = int(np.prod(workload.w_shape[1:])) * largest_weight(workload.w_bits)
    if workload.max_abs_sum is not None:
        bound = min(bound, workload.max_abs_sum)
    x_max = (1 << workload.x_bits) - 1
    return -(-bound * x_max // 2) + 1  # the centre is rounded


@dataclass(frozen=True)
class Ranges:
    """Ranges of the transformed values, arrays of ``[row points, column points]``.

    Attributes
    ----------
    x_low, x_high : np.ndarray
        Of the activations.
    w_size : np.ndarray
        Largest magnitude of the weights.
    """

    x_low: np.ndarray
    x_high: np.ndarray
    w_size: np.ndarray

    @classmethod
    def of(cls, workload: Workload, algorithm: Algorithm) -> Ranges:
        """Ranges that hold for all activations and weights of the workload's bits."""
        x_max = (1 << workload.x_bits) - 1
        axes = (algorithm.rows, algorithm.columns)
        both = np.einsum("ik,jl->ijkl", *(axis.input_matrix for axis in axes))
        sizes = [np.abs(np.array(axis.filter_matrix)).sum(axis=1) for axis in axes]
        return cls(
            np.minimum(both, 0).sum(axis=(2, 3)) * x_max,
            np.maximum(both, 0).sum(axis=(2, 3)) * x_max,
            np.outer(*sizes) * largest_weight(workload.w_bits),
        )

    @property
    def fit_words(self) -> bool:
        """Whether all are int16."""
        top = max(self.x_high.max(), -self.x_low.min(), self.w_size.max())
        return bool(top < 1 << 15)

    @property
    def fit_bytes(self) -> bool:
        """Whether activations are uint8 after :attr:`offsets` were added, and weights int8."""
        return bool((self.x_high - self.x_low).max() < 256 and self.w_size.max() < 128)

    @property
    def offsets(self) -> np.ndarray:
        """What makes the activations unsigned, int ``[row points, column points]``."""
        return -self.x_low

    @property
    def pair_sum(self) -> int:
        """Largest magnitude of the sum of two products of bytes."""
        return int(2 * ((self.x_high - self.x_low) * self.w_size).max())
