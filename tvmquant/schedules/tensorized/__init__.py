"""Convolution as a TE definition with a tensor intrinsic, for MetaSchedule to schedule."""

from tvmquant.schedules.tensorized.kernel import TensorizedKernel

__all__ = ["TensorizedKernel"]
