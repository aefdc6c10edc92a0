"""Estimators stored and restored."""

import numpy as np
import pytest

from tvmquant.calibration import make_estimator
from tvmquant.calibration.base import ESTIMATOR_NAMES
from tvmquant.calibration.health import TensorHealth
from tvmquant.calibration.state import dump_state, restore_state

DATA = np.random.default_rng(0).standard_normal((6, 50, 10)).astype(np.float32)


@pytest.mark.parametrize("name", ESTIMATOR_NAMES)
@pytest.mark.parametrize("seen", [0, 1, 4])
def test_a_restored_estimator_goes_on(name, seen):
    whole, first, second = (make_estimator(name, 99.0) for _ in range(3))
    for array in DATA:
        whole.update(array)
    for array in DATA[:seen]:
        first.update(array)
    restore_state(second, dump_state(first))
    for array in DATA[seen:]:
        second.update(array)
    assert second.range(4, False) == whole.range(4, False)


def test_health_and_what_is_missing():
    health, again = TensorHealth(), TensorHealth()
    health.observe(DATA[0])
    arrays = dump_state(health, "a.")
    restore_state(again, arrays, "a.")
    assert (again.low, again.high, again.seen) == (health.low, health.high, health.seen)
    np.testing.assert_array_equal(again.peaks, health.peaks)
    del arrays["a.low"]
    with pytest.raises(KeyError):
        restore_state(TensorHealth(), arrays, "a.")
