"""Samples of any batch size."""

import numpy as np
import pytest

from tvmquant.errors import CalibrationError, CalibrationWarning
from tvmquant.frontend import InputInfo, calibration_batches
from tvmquant.frontend.batching import rebatch


def info(*shape, name="x", dtype="float32"):
    return InputInfo(name, shape, dtype)


def rows(*numbers, name="x"):
    return {name: np.repeat(np.array(numbers, np.float32)[:, None], 3, 1)}


def numbers(batches):
    return [list(batch["x"][:, 0]) for batch in batches]


@pytest.mark.parametrize(
    "size,samples,want",
    [
        (2, [(0, 1), (2, 3)], [[0, 1], [2, 3]]),
        (1, [(0, 1, 2), (3,)], [[0], [1], [2], [3]]),
        (2, [(0, 1, 2, 3), (4, 5)], [[0, 1], [2, 3], [4, 5]]),
        (4, [(0, 1), (2, 3), (4, 5), (6, 7)], [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (2, [(0,), (1,), (2, 3)], [[0, 1], [2, 3]]),
    ],
)
def test_samples_are_cut_and_gathered(size, samples, want):
    assert numbers(rebatch((rows(*s) for s in samples), [info(size, 3)])) == want


def test_the_last_batch_is_filled_up_with_a_word():
    with pytest.warns(CalibrationWarning, match="last batch has 1 of 4 samples"):
        got = numbers(rebatch([rows(0, 1, 2, 3, 4, 5, 6, 7), rows(8)], [info(4, 3)]))
    assert got == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 8, 8, 8]]


def test_inputs_stay_together_and_scalars_go_along():
    inputs = [info(1, 3), info(1, 3, name="mask"), info(name="rate")]
    sample = {**rows(0, 1), **rows(5, 6, name="mask"), "rate": np.float32(9)}
    got = list(rebatch([sample], inputs))
    assert [(b["x"][0, 0], b["mask"][0, 0], b["rate"]) for b in got] == [(0, 5, 9), (1, 6, 9)]


@pytest.mark.parametrize(
    "shape,sample",
    [((1, 4), (2, 3)), ((4,), (8,)), ((2, 3), (5, 3)), ((1, 3, 3), (2, 9))],
    ids=["other axis", "no batch", "no multiple", "rank"],
)
def test_other_shapes_are_left_to_the_check(shape, sample):
    with pytest.raises(CalibrationError, match=r"sample 0: input 'x'.*expected"):
        list(calibration_batches([np.zeros(sample, np.float32)], [info(*shape)]))


def test_a_list_of_batches_for_a_model_of_one_sample():
    batches = list(calibration_batches([np.ones((3, 3), np.float32)] * 2, [info(1, 3)]))
    assert [batch["x"].shape for batch in batches] == [(1, 3)] * 6
