"""What the numbers were measured on."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from benchmarks import limits

PACKAGES = (
    "tvmquant",
    "apache-tvm",
    "onnxruntime",
    "openvino",
    "nncf",
    "ncnn",
    "mnn",
    "ai-edge-litert",
    "numpy",
    "onnx",
)


def describe_machine() -> dict[str, Any]:
    """Processor, instruction-set features that steer kernels, cores, memory, load, system."""
    device = limits.device()
    return {
        "cpu": cpu_model(),
        "isa": device.isa,
        "features": sorted(device.features),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_average": [round(v, 2) for v in psutil.getloadavg()],
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def cpu_model() -> str:
    """Name of the processor; family and model tell generations of one name apart."""
    fields: dict[str, str] = {}
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").split("\n\n")[0].splitlines():
            key, _, value = line.partition(":")
            fields[key.strip()] = value.strip()
    name = fields.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in fields:
        name += f" (family {fields['cpu family']}, model {fields['model']})"
    return name


def versions() -> dict[str, str]:
    """Versions of the packages that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
