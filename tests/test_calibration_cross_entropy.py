"""Ranges for logits."""

import numpy as np
from calibration_tools import error, filled

from tvmquant.calibration.cross_entropy import ROWS, CrossEntropyEstimator
from tvmquant.calibration.params import activation_params


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def loss(logits, low, high, bits):
    scale, zero = activation_params(low, high, bits)
    q = (np.clip(np.rint(logits / scale) + zero, 0, 2**bits - 1) - zero) * scale
    return -np.mean(np.sum(softmax(logits) * np.log(softmax(q)), -1))


def test_it_drops_the_small_logits_that_decide_nothing():
    logits = np.random.default_rng(0).normal(0, 4, (500, 10))
    logits[:, 0] = -60.0
    low, high = filled(CrossEntropyEstimator(), *np.array_split(logits, 5)).range(3, False)
    assert low > -30
    whole = logits.min(), logits.max()
    assert loss(logits, low, high, 3) < loss(logits, *whole, 3)
    # A squared error would decide otherwise.
    assert error(logits, low, high, 3) > error(logits, *whole, 3) * 0.5


def test_the_rows_kept_are_bounded_and_spread_over_the_stream():
    estimator = CrossEntropyEstimator()
    for i in range(40):
        estimator.update(np.full((100, 3), i, np.float32))
    kept = np.array(estimator._rows)[:, 0]
    assert ROWS / 2 <= len(kept) <= 2 * ROWS
    assert set(kept) == set(range(40))
    assert np.ptp(np.bincount(kept.astype(int))) <= 2


def test_nothing_seen():
    assert CrossEntropyEstimator().range(8, False) == (0.0, 0.0)
