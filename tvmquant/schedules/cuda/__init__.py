"""Kernels for NVIDIA GPUs: integer products on tensor cores."""
