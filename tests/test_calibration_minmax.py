"""Min-max: everything seen, in any number of pieces."""

import numpy as np

from tvmquant.calibration.minmax import MinMaxEstimator


def test_streaming_equals_one_shot():
    values = np.random.default_rng(0).standard_normal((7, 50)).astype(np.float32)
    pieces, whole = MinMaxEstimator(), MinMaxEstimator()
    for row in values:
        pieces.update(row)
    whole.update(values)
    assert pieces.range(8, False) == whole.range(8, False) == (values.min(), values.max())


def test_nothing_seen():
    estimator = MinMaxEstimator()
    assert estimator.range(8, False) == (0.0, 0.0)
    estimator.update(np.zeros((0, 3), np.float32))
    assert estimator.range(4, True) == (0.0, 0.0)
