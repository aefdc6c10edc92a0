"""Float convolution and matrix product, for the layers that are not quantized."""

from tvmquant.schedules.floating.kernel import DenseKernel, DepthwiseFloatKernel

__all__ = ["DenseKernel", "DepthwiseFloatKernel"]
