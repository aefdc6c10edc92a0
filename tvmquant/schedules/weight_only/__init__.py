"""Matrix products with float activations and weights of 8, 4 or 2 bits."""

from tvmquant.schedules.weight_only.integer import IntegerKernel
from tvmquant.schedules.weight_only.kernel import WeightOnlyKernel
from tvmquant.schedules.weight_only.rules import digits, weight_only

__all__ = ["IntegerKernel", "WeightOnlyKernel", "digits", "weight_only"]
