"""Exactness and speed on an NVIDIA GPU: prepared on any machine, measured on a bare one."""
