"""What the tests of the range estimators share."""

import numpy as np

from tvmquant.calibration.params import activation_params


def filled(estimator, *arrays):
    for array in arrays:
        estimator.update(array.astype(np.float32))
    return estimator


def error(values, low, high, bits):
    scale, zero = activation_params(low, high, bits)
    q = np.clip(np.rint(values / scale) + zero, 0, 2**bits - 1)
    return np.mean(((q - zero) * scale - values) ** 2)
