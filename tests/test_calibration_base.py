"""Estimators by name."""

import numpy as np
import pytest

from tvmquant.calibration import make_estimator
from tvmquant.calibration.base import ESTIMATOR_NAMES


@pytest.mark.parametrize("name", ESTIMATOR_NAMES)
@pytest.mark.parametrize("value", [3.0, -2.0, 0.0])
def test_a_constant_lies_within_its_range(name, value):
    estimator = make_estimator(name)
    estimator.update(np.full(100, value, np.float32))
    low, high = estimator.range(8, False)
    assert min(low, 0) <= value <= max(high, 0)


def test_the_percentile_is_handed_on():
    values = np.linspace(0, 1, 10001, dtype=np.float32)
    wide, narrow = (make_estimator("percentile", p) for p in (100, 90))
    for estimator in (wide, narrow):
        estimator.update(values)
    assert wide.range(8, False) == (0, 1)
    np.testing.assert_allclose(narrow.range(8, False), (0.05, 0.95), atol=1e-3)


def test_unknown_name():
    with pytest.raises(ValueError, match="unknown range estimator 'median'"):
        make_estimator("median")
