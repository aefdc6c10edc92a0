"""Kernels for NVIDIA GPUs: integer products on tensor cores."""

from tvmquant.schedules.cuda import rules as _rules  # noqa: F401
from tvmquant.schedules.cuda.kernel import TensorCoreKernel
from tvmquant.schedules.cuda.plain import DepthwiseKernel, FloatKernel, WeightOnlyKernel

__all__ = ["DepthwiseKernel", "FloatKernel", "TensorCoreKernel", "WeightOnlyKernel"]
