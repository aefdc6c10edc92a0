"""Calibration data for tests, and how it is read."""

import numpy as np

from tvmquant.frontend import InputInfo, calibration_batches

ONE = [InputInfo("x", (1, 3), "float32")]
TWO = [InputInfo("ids", (2, 4), "int64"), InputInfo("mask", (2, 4), "float32")]


def arange(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def read(data, inputs=ONE):
    return list(calibration_batches(data, inputs))


def single(data, inputs=ONE):
    """The batches of a model with one input, as one array."""
    return np.stack([batch["x"] for batch in read(data, inputs)])


class Reader:
    """Like a calibration data reader of ONNX Runtime."""

    def __init__(self, samples):
        self.samples, self.position = samples, 0

    def get_next(self):
        self.position += 1
        return self.samples[self.position - 1] if self.position <= len(self.samples) else None

    def rewind(self):
        self.position = 0
