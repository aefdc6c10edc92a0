"""Samples by input name, and what is wrong with them."""

import numpy as np
import pytest
from sample_tools import ONE, TWO, arange, read

from tvmquant.errors import CalibrationError
from tvmquant.frontend import InputInfo, calibration_batches


def test_two_inputs():
    ids, mask = np.ones((6, 4), np.int64), np.ones((6, 4), np.float32)
    assert [b["ids"].shape for b in read({"ids": ids, "mask": mask}, TWO)] == [(2, 4)] * 3
    assert read([(ids[:2], mask[:2])], TWO)[0]["mask"].dtype == np.float32
    with pytest.raises(CalibrationError, match=r"2 inputs.*'ids', 'mask'.*dictionaries"):
        read(mask, TWO)
    with pytest.raises(
        CalibrationError, match="sample 0 has 3 arrays, the model has 2 inputs: 'ids', 'mask'"
    ):
        read([(ids[:2], mask[:2], mask[:2])], TWO)


def test_kind_that_cannot_be_read():
    with pytest.raises(CalibrationError, match="type int: pass an array"):
        read(3)
    with pytest.raises(CalibrationError, match="sample 1 is a set"):
        read([arange(1, 3), {"a"}])
    with pytest.raises(CalibrationError, match="sample 0 is a str"):
        read(["image.png"])
    with pytest.raises(
        CalibrationError, match="sample 0 has 2 arrays, the model has 1 inputs: 'x'"
    ):
        read([(arange(1, 3), np.array([7]))])  # image and label
    with pytest.raises(CalibrationError, match="sample 0 is no array"):
        read([[[1.0], [1.0, 2.0]]])


@pytest.mark.parametrize(
    "sample,message",
    [
        (arange(1, 4), r"1: input 'x' \(float32 \[1, 3\]\).*shape \[1, 4\], expected \[1, 3\]"),
        (np.zeros((1, 3), np.uint8), "sample 1: input 'x'.*uint8 values, expected float32; scale"),
        (np.zeros((1, 3), np.int64), "sample 1: input 'x'.*int64 values, expected float32"),
        ({"y": arange(1, 3)}, "sample 1 has an array 'y'.*inputs are 'x'"),
        ({}, "sample 1 has no array for input 'x'"),
    ],
)  # fmt: skip
def test_bad_samples(sample, message):
    batches = calibration_batches([arange(1, 3), sample], ONE)
    next(batches)
    with pytest.raises(CalibrationError, match=message):
        next(batches)


def test_safe_casts():
    assert read([np.ones((1, 3))])[0]["x"].dtype == np.float32
    ids = [InputInfo("x", (1, 3), "int64")]
    assert read([np.ones((1, 3), np.int32)], ids)[0]["x"].dtype == np.int64
    assert read([np.ones((1, 3), np.int64)], [InputInfo("x", (1, 3), "int32")])
    with pytest.raises(CalibrationError, match="int64 values, expected int8"):
        read([np.full((1, 3), 300)], [InputInfo("x", (1, 3), "int8")])
    with pytest.raises(CalibrationError, match="float32 values, expected int64"):
        read([arange(1, 3)], ids)
