"""Seeded numbers of one layer, the same for every engine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from benchmarks.layer_cases import Layer

X_ZERO_POINT = 0
# Real multiplier: brings the sums to about this many steps of the 8-bit output.
SPREAD = 40.0
OUT_ZERO_POINT = 128


@dataclass
class LayerData:
    """Stored activations, weights, and what the epilogue needs.

    Weights are normal, so that the largest of a channel is the largest int8: as in a network.
    """

    layer: Layer
    x_bits: int
    w_bits: int

    def _rng(self, stream: int) -> np.random.Generator:
        return np.random.default_rng(stream)

    @cached_property
    def x(self) -> np.ndarray:
        """uint8, values of ``x_bits``."""
        return self._rng(1).integers(0, 2**self.x_bits, self.layer.x_shape).astype(np.uint8)

    @cached_property
    def w(self) -> np.ndarray:
        """int8, values of ``w_bits``; of one bit they are -1 and 1."""
        real = self._rng(2).standard_normal(self.layer.w_shape)
        if self.w_bits == 1:
            return np.where(real < 0, -1, 1).astype(np.int8)
        top = 2 ** (self.w_bits - 1) - 1
        axes = tuple(range(1, real.ndim))
        scale = np.abs(real).max(axis=axes, keepdims=True) / top
        return np.rint(real / scale).astype(np.int8)

    @cached_property
    def bias(self) -> np.ndarray:
        return self._rng(3).integers(-1000, 1000, self.layer.outputs).astype(np.int32)

    @cached_property
    def multiplier(self) -> float:
        """Output steps a step of the sum; a power of two, so that all engines round alike."""
        depth = int(np.prod(self.layer.w_shape[1:]))
        deviation = np.sqrt(depth) * 2.0 ** (self.x_bits - 1) * max(1.0, float(self.w.std()))
        return float(2.0 ** np.round(np.log2(SPREAD / deviation)))
