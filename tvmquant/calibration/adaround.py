"""Whether to round a weight up or down, learned: AdaRound with a closed-form gradient.

Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization". The objective
is their eq. 21 with the rectified sigmoid of eq. 23 and the regularizer of eq. 24. The squared
error of a layer's output is a quadratic form in its weights, so its gradient needs the layer's
second moments only, not the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tvmquant.calibration.moments import Moments

_ZETA, _GAMMA = 1.1, -0.1


@dataclass(frozen=True)
class AdaRoundOptions:
    """Schedule of the optimisation.

    Attributes
    ----------
    iterations : int
    rate : float
        Learning rate of Adam.
    weight : float
        Of the regularizer, against the error of rounding to nearest as the unit.
    warmup : float
        Share of the iterations without regularizer.
    beta : tuple of float
        Its exponent at the start and at the end.
    """

    iterations: int = 800
    rate: float = 0.02
    weight: float = 1.0
    warmup: float = 0.2
    beta: tuple[float, float] = (20.0, 2.0)


def adaround(
    rows: np.ndarray,
    scale: np.ndarray,
    bits: int | np.ndarray,
    data: Moments,
    options: AdaRoundOptions | None = None,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Integers of least output error among those next to ``rows / scale``.

    Parameters
    ----------
    rows : np.ndarray
        Float weights ``[groups, channels of a group, K]``.
    scale : np.ndarray
        float ``[groups, channels of a group, 1]``, or a scale for every weight.
    bits : int or np.ndarray
        2 to 8; an array ``[groups, channels of a group]`` gives every channel its own.
    data : Moments
    options : AdaRoundOptions, optional
    progress : callable, optional
        Called with the number of iterations done.

    Returns
    -------
    np.ndarray
        int8, shape of ``rows``; per channel never worse on ``data`` than rounding to nearest.
    """
    options = options or AdaRoundOptions()
    half = 2.0 ** (np.asarray(bits)[..., None] - 1)
    qmin, qmax = -half, half - 1
    exact = rows / scale
    nearest = np.clip(np.rint(exact), qmin, qmax)
    floor = np.floor(exact)
    # Weights that are clipped either way have nothing to decide.
    free = (floor >= qmin) & (floor < qmax)
    unit = data.error(nearest * scale)[..., None]
    unit = np.where(unit > 0, unit, 1.0) / max(rows.shape[-1], 1)
    xx, target = data.xx.astype(np.float32), data.yx.astype(np.float32)
    step = scale.astype(np.float32)
    gradient_scale = (2 / unit).astype(np.float32) * step
    floor32 = np.clip(floor, qmin, qmax).astype(np.float32)
    fraction = np.clip(exact - floor, 0.01, 0.99)
    v = np.log((fraction - _GAMMA) / (_ZETA - fraction)).astype(np.float32)
    first, second = np.zeros_like(v), np.zeros_like(v)
    warm = int(options.warmup * options.iterations)
    for i in range(options.iterations):
        sigmoid = 1 / (1 + np.exp(-v))
        raw = sigmoid * (_ZETA - _GAMMA) + _GAMMA
        h = np.where(free, np.clip(raw, 0, 1), 0)
        slope = np.where((raw > 0) & (raw < 1) & free, sigmoid * (1 - sigmoid), 0)
        slope *= _ZETA - _GAMMA
        gradient = ((floor32 + h) * step @ xx - target) * gradient_scale
        if i >= warm:
            done = (i - warm) / max(options.iterations - warm, 1)
            beta = options.beta[1] + (options.beta[0] - options.beta[1]) * (
                0.5 * (1 + np.cos(np.pi * done))
            )
            centred = 2 * h - 1
            pull = -2 * beta * np.sign(centred) * np.abs(centred) ** (beta - 1)
            gradient = gradient + options.weight * pull
        gradient *= slope
        first += 0.1 * (gradient - first)
        second += 0.001 * (gradient * gradient - second)
        rate = options.rate * np.sqrt(1 - 0.999 ** (i + 1)) / (1 - 0.9 ** (i + 1))
        v -= rate * first / (np.sqrt(second) + 1e-8)
        if progress:
            progress(i + 1)
    learned = np.where(free, floor + (v >= 0), nearest)
    better = data.error(learned * scale) < data.error(nearest * scale)
    return np.where(better[..., None], learned, nearest).astype(np.int8)
