"""Arrays of a case and what it must compute, by the NumPy reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.gpu.bare import data
from benchmarks.gpu.cases import Case
from tvmquant import reference
from tvmquant.reference.weight_only import dequantize_groups
from tvmquant.schedules.linear.addition import Sum
from tvmquant.schedules.meaning import integer_layer, with_sum
from tvmquant.schedules.workload import Workload


@dataclass
class Arrays:
    """What a kernel reads and what must come out.

    Attributes
    ----------
    x, weight, bias : np.ndarray
    params : tuple of np.ndarray
    after : dict of str to np.ndarray
        Arguments behind the packed constants, in order: ``qinfo``, ``other``.
    expected : np.ndarray
        The whole output, or the rows ``rows`` of it.
    rows : np.ndarray or None
        Rows of the output as ``[rows, channels]``.
    bound : np.ndarray or None
        Largest error of a float output; integers must be equal.
    """

    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    params: tuple[np.ndarray, ...]
    after: dict[str, np.ndarray]
    expected: np.ndarray
    rows: np.ndarray | None = None
    bound: np.ndarray | None = None


def small(case: Case, seed: int) -> Arrays:
    """Random arrays and the whole output."""
    workload, rng = case.workload, np.random.default_rng(seed)
    if workload.x_bits > 8:
        return _floating(workload, rng)
    top, bits, outputs = 2**workload.x_bits - 1, workload.w_bits, workload.w_shape[0]
    x = rng.integers(0, top + 1, workload.x_shape)
    weight = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), workload.w_shape)
    if bits == 1:
        weight = rng.integers(0, 2, workload.w_shape) * 2 - 1
    if case.extreme:
        x = np.where(rng.random(x.shape) < 0.95, top, x)
        weight = np.where(rng.random(weight.shape) < 0.5, weight.max(), weight.min())
        weight[: outputs // 3] = weight.max()
    bias, multiplier = _epilogue(workload, rng)
    low, high = sorted(rng.integers(0, 256, 2).tolist())
    qinfo = np.array([rng.integers(0, top + 1), rng.integers(0, 256), low, high], np.int32)
    params = reference.make_requantize_params(multiplier, workload.requantize)
    given = (x.astype(np.uint8), weight.astype(np.int8), bias, params)
    expected = integer_layer(workload, *given, qinfo)
    if not case.residual:
        return Arrays(*given, {"qinfo": qinfo}, expected)
    scale = np.array([rng.uniform(0.4, 1.6) / (1 << 21)])
    total = Sum(
        case.residual,
        reference.make_requantize_params(scale, case.residual),
        int(qinfo[1]),
        *rng.integers(0, 256, 1).tolist(),
        *(1 << 21, 1234567),
        *rng.integers(0, 256, 1).tolist(),
        *sorted(rng.integers(0, 256, 2).tolist()),
    )
    form, numbers = total.encode(False)
    assert form == case.residual
    other = rng.integers(0, 256, workload.out_shape).astype(np.uint8)
    after = {"qinfo": np.concatenate([qinfo, numbers]), "other": other}
    return Arrays(*given, after, with_sum(expected, other, total))


def large(case: Case, seed: int) -> Arrays:
    """Arrays that the other machine makes from the seed as well, and some rows of the output."""
    workload = case.workload
    weight = data.weights(seed, workload.w_shape, workload.w_bits)
    rng = np.random.default_rng(seed)
    x = data.activations(seed, workload.x_shape, workload.x_bits)
    if workload.x_bits > 8:
        return _floating(workload, rng, x, weight)
    bias, multiplier = _epilogue(workload, rng)
    params = reference.make_requantize_params(multiplier, workload.requantize)
    qinfo = np.array([1 << (workload.x_bits - 1), 128, 0, 255], np.int32)
    picked = data.some_rows(seed, int(np.prod(workload.out_shape[:-1])))
    flat = patches(workload, x, int(qinfo[0]), picked)
    meant = Workload(
        "matmul", flat.shape, (len(weight), flat.shape[1]), requantize=workload.requantize
    )
    rows = integer_layer(meant, flat, weight.reshape(len(weight), -1), bias, params, qinfo)
    return Arrays(x, weight, bias, params, {"qinfo": qinfo}, rows, picked)


def patches(workload: Workload, x: np.ndarray, zero_point: int, rows: np.ndarray) -> np.ndarray:
    """What the outputs ``rows`` of a convolution without groups are computed from."""
    if workload.op == "matmul":
        return x[rows]
    top, left = workload.padding[:2]
    n, oh, ow = np.unravel_index(rows, workload.out_shape[:-1])
    kh, kw = workload.w_shape[1:3]
    y = oh[:, None] * workload.strides[0] + np.arange(kh) * workload.dilation[0] - top
    z = ow[:, None] * workload.strides[1] + np.arange(kw) * workload.dilation[1] - left
    height, width = workload.x_shape[1:3]
    inside = ((y >= 0) & (y < height))[:, :, None] & ((z >= 0) & (z < width))[:, None, :]
    y, z = y.clip(0, height - 1), z.clip(0, width - 1)
    taken = x[n[:, None, None], y[:, :, None], z[:, None, :]]
    return np.where(inside[..., None], taken, zero_point).reshape(len(rows), -1).astype(x.dtype)


def _epilogue(workload: Workload, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Bias, and multipliers that bring the sums to some 60 steps of the output."""
    bits = workload.x_bits + workload.w_bits
    spread = np.sqrt(np.prod(workload.w_shape[1:])) * 2.0 ** (bits - 2)
    reach = int(min(4000, 4 * spread)) + 1
    outputs = workload.w_shape[0]
    bias = rng.integers(-reach, reach, outputs).astype(np.int32)
    return bias, 60 / spread * 2.0 ** rng.uniform(-2, 2, outputs)


def _floating(
    workload: Workload,
    rng: np.random.Generator,
    x: np.ndarray | None = None,
    weight: np.ndarray | None = None,
) -> Arrays:
    outputs = workload.w_shape[0]
    if workload.op == "matmul_weight_only":
        return _weight_only(workload, rng, x, weight)
    # Small integers: float sums are exact in any order.
    x, weight = (rng.integers(-8, 8, shape) for shape in (workload.x_shape, workload.w_shape))
    bias = rng.integers(-8, 8, outputs)
    meant = {"op": workload.op.removesuffix("_float"), "requantize": "none"}
    plain = Workload(**{**vars(workload), **meant})
    whole = integer_layer(plain, x, weight, bias, (), np.zeros(4, np.int32))
    given = (a.astype(np.float32) for a in (x, weight, bias))
    return Arrays(*given, (), {}, whole.astype(np.float32))


def _weight_only(
    workload: Workload,
    rng: np.random.Generator,
    x: np.ndarray | None,
    weight: np.ndarray | None,
) -> Arrays:
    outputs, depth = workload.w_shape
    size, half = workload.group_size or depth, 1 << (workload.w_bits - 1)
    # Channels from which all others are repeated, to compress and to be computed once.
    few = outputs if weight is None else min(outputs, data.PERIOD)
    if x is None or weight is None:
        x = rng.normal(size=workload.x_shape).astype(np.float32)
        weight = rng.integers(-half, half, workload.w_shape).astype(np.int8)
    scale = rng.uniform(0.5, 1.5, (few, -(-depth // size))) / (half * depth**0.5)
    params = [scale.astype(np.float32)]
    if workload.zero_points:
        params.append(rng.integers(-half, half, scale.shape).astype(np.int8))
    bias = rng.normal(size=outputs).astype(np.float32)
    channel = np.arange(outputs) % few
    zero = params[1] if workload.zero_points else None
    own = dequantize_groups(weight[:few], params[0], zero, size)
    expected = (x.astype(np.float64) @ own.T)[:, channel] + bias
    # The bound is linear in the magnitude of the bias.
    none, one = (
        reference.weight_only_bound(x, weight[:few], params[0], b, zero, group_size=size)
        for b in (np.zeros(few, np.float32), np.ones(few, np.float32))
    )
    bound = none[:, channel] + (one - none)[:, channel] * np.abs(bias)
    repeated = tuple(param[channel] for param in params)
    whole = expected.astype(np.float32)
    return Arrays(x, weight, bias, repeated, {}, whole, bound=bound.astype(np.float32))
