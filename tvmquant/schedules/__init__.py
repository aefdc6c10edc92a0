"""Kernels: what computes each heavy operator, one subpackage a family."""
