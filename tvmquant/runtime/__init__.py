"""Running, saving, loading, profiling and timing compiled models."""

from tvmquant.runtime.benchmark import Benchmark
from tvmquant.runtime.bundle import load, read_manifest
from tvmquant.runtime.compiled_model import CompiledModel
from tvmquant.runtime.manifest import LayerInfo, Manifest, TensorInfo, current_versions
from tvmquant.runtime.profile import LayerTime, Profile

__all__ = [
    "Benchmark",
    "CompiledModel",
    "LayerInfo",
    "LayerTime",
    "Manifest",
    "Profile",
    "TensorInfo",
    "current_versions",
    "load",
    "read_manifest",
]
