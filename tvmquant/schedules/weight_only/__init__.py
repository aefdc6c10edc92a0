"""Matrix products with float activations and weights of 8, 4 or 2 bits."""

from tvmquant.schedules.weight_only.kernel import WeightOnlyKernel
from tvmquant.schedules.weight_only.rules import weight_only

__all__ = ["WeightOnlyKernel", "weight_only"]
