"""Dense integer kernels: convolution (any groups) and matrix multiplication."""

from tvmquant.schedules.linear.kernel import DenseKernel
from tvmquant.schedules.linear.packing import cannot_saturate

__all__ = ["DenseKernel", "cannot_saturate"]
