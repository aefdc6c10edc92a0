"""Devices: TVM target, instruction-set features, and what they run natively."""

from tvmquant.targets.device import Device, get_device

__all__ = ["Device", "get_device"]
