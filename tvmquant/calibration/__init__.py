"""Range estimators: one a file, all streaming (memory does not grow with the samples)."""

from tvmquant.calibration.base import RangeEstimator, make_estimator
from tvmquant.calibration.params import activation_params
from tvmquant.calibration.weights import quantize_channels, quantize_weight

__all__ = [
    "RangeEstimator",
    "activation_params",
    "make_estimator",
    "quantize_channels",
    "quantize_weight",
]
