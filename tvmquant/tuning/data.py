"""Arrays to measure a kernel with: random, but with the properties that the workload claims."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvmquant import reference
from tvmquant.precision import HALF_BITS
from tvmquant.schedules.workload import Workload

# Magnitude up to which neighbouring 8-bit weights never saturate ``pmaddubsw``.
_SAFE = 64


@dataclass(frozen=True)
class Case:
    """Input and plain constants of one workload, as :meth:`Kernel.pack` takes them.

    Attributes
    ----------
    x, weight, bias : np.ndarray
    params : tuple of np.ndarray
    qinfo : np.ndarray or None
        ``None`` for the float operators.
    """

    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    params: tuple[np.ndarray, ...]
    qinfo: np.ndarray | None


def make_case(workload: Workload, seed: int = 0) -> Case:
    """Random arrays, the same for the same seed in every process."""
    rng = np.random.default_rng(seed)
    outputs = workload.w_shape[0]
    if workload.op == "matmul_weight_only":
        return _weight_only(workload, rng)
    if workload.op.endswith("_float"):
        depth = int(np.prod(workload.w_shape[1:]))
        x, weight = (
            rng.standard_normal(shape, dtype=np.float32)
            for shape in (workload.x_shape, workload.w_shape)
        )
        bias = rng.standard_normal(outputs, dtype=np.float32)
        weight = weight / np.float32(depth**0.5)
        if workload.w_bits == HALF_BITS:
            weight = weight.astype(np.float16).astype(np.float32)
        return Case(x, weight, bias, (), None)
    top = (1 << workload.x_bits) - 1
    x = rng.integers(0, top + 1, workload.x_shape).astype(np.uint8)
    weight = _weight(workload, rng)
    bias = rng.integers(-2000, 2000, outputs).astype(np.int32)
    # About the standard deviation of a sum becomes 40 steps of the output.
    spread = float(weight.astype(np.float32).std()) * top / 4
    spread *= float(np.prod(workload.w_shape[1:])) ** 0.5
    multiplier = 40 / max(spread, 1.0) * rng.uniform(0.5, 1.5, outputs)
    params = reference.make_requantize_params(multiplier, workload.requantize)
    qinfo = np.array([(top + 1) // 2, 100, 0, 255], np.int32)
    return Case(x, weight, bias, params, qinfo)


def _weight_only(workload: Workload, rng: np.random.Generator) -> Case:
    outputs, depth = workload.w_shape
    groups = -(-depth // (workload.group_size or depth))
    x = rng.standard_normal(workload.x_shape, dtype=np.float32)
    scale = rng.uniform(0.5, 1.5, (outputs, groups)).astype(np.float32)
    params = [scale / np.float32((1 << workload.w_bits) * depth**0.5)]
    if workload.zero_points:
        params.append(rng.integers(-2, 3, (outputs, groups)).astype(np.int8))
    bias = rng.standard_normal(outputs, dtype=np.float32)
    return Case(x, _weight(workload, rng), bias, tuple(params), None)


def _weight(workload: Workload, rng: np.random.Generator) -> np.ndarray:
    """int8 weights, bell-shaped like trained ones."""
    bits, shape = workload.w_bits, workload.w_shape
    if bits == 1:
        return (2 * rng.integers(0, 2, shape) - 1).astype(np.int8)
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    if workload.no_saturation:
        low, high = max(low, -_SAFE), min(high, _SAFE)
    bell = rng.standard_normal(shape, dtype=np.float32) * ((high + 0.5) / (4 if bits > 4 else 2.5))
    weight = np.clip(np.rint(bell), low, high)
    if workload.max_abs_sum is not None:
        sums = np.abs(weight).reshape(shape[0], -1).sum(axis=1)
        shrink = np.minimum(1, workload.max_abs_sum / np.maximum(sums, 1))
        weight = np.trunc(weight * shrink.reshape(-1, *[1] * (len(shape) - 1)))
    return weight.astype(np.int8)
