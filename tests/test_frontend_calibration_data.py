"""Calibration data: checked batches, what is skipped, a first look, identity."""

import numpy as np
import pytest
from sample_tools import ONE, Reader, arange, read, single

from tvmquant.errors import CalibrationError, CalibrationWarning
from tvmquant.frontend import CalibrationSource, InputInfo, calibration_batches, synthetic_batches

OPEN = [InputInfo("x", (None, None), "float32")]


@pytest.mark.parametrize("data", [[], np.zeros((0, 3), np.float32), {"x": np.zeros((0, 3), "f4")}])
def test_empty(data):
    with pytest.raises(CalibrationError, match="empty"):
        read(data)
    with pytest.raises(CalibrationError, match="empty"):
        CalibrationSource(data).peek(ONE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_samples_that_are_not_finite_are_skipped(value, tmp_path):
    data = arange(5, 3).astype(np.float64)
    data[1, 2] = data[3, 0] = value
    path = tmp_path / "data.npz"
    np.savez(path, x=data)
    for source in (data, path, list(data), (row for row in data)):
        with pytest.warns(CalibrationWarning, match="samples 1, 3 skipped: input 'x'") as caught:
            got = single(source)
        assert len(caught) == 1
        np.testing.assert_array_equal(got[:, 0], data[[0, 2, 4]])
    data[:] = value
    with pytest.raises(CalibrationError, match=r"sample 4: input 'x'.*NaN.*no sample is left"):
        read(data)


def test_identity_tells_data_apart(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=arange(2, 3))
    sources = [path, arange(2, 3), {"x": arange(2, 3)}, [arange(3)], [(arange(3),)], arange(3, 2)]
    found = [CalibrationSource(source).identity for source in sources]
    assert len(set(found)) == len(found)
    assert found == [CalibrationSource(source).identity for source in sources]
    changed = arange(2, 3)
    changed[1, 1] += 1e-6
    assert CalibrationSource(changed).identity not in found
    for unknown in (iter([arange(3)]), Reader([]), ["text"], np.array([None])):
        assert CalibrationSource(unknown).identity is None


@pytest.mark.parametrize(
    "data", [arange(5, 3), {"x": arange(5, 3)}, [arange(1, 3)] * 5, (a for a in [arange(1, 3)] * 5)]
)
def test_peek_consumes_nothing(data):
    source = CalibrationSource.of(data)
    assert CalibrationSource.of(source) is source
    assert source.peek(OPEN)["x"].shape == (1, 3)
    assert len(list(source.batches(ONE))) == 5


def test_peek_adds_the_batch():
    assert CalibrationSource([arange(3)]).peek(OPEN)["x"].shape == (1, 3)


def test_peek_before_a_larger_batch_is_known():
    source = CalibrationSource(arange(6, 3))
    source.peek(OPEN)
    assert len(list(source.batches([InputInfo("x", (2, 3), "float32")]))) == 3


def test_synthetic():
    inputs = [*ONE, InputInfo("ids", (2, 4), "int64"), InputInfo("b", (2,), "bool")]
    batches = list(synthetic_batches(inputs, 3, seed=1))
    assert len(batches) == 3
    for info in inputs:
        assert batches[0][info.name].shape == info.shape
        assert batches[0][info.name].dtype == info.dtype
    assert not np.array_equal(batches[0]["x"], batches[1]["x"])
    again = next(synthetic_batches(inputs, 3, seed=1))
    np.testing.assert_array_equal(again["x"], batches[0]["x"])
    assert list(calibration_batches(synthetic_batches(ONE, 2), ONE))
