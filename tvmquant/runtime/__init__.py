"""Running, saving, loading, profiling and timing compiled models."""

from tvmquant.runtime.benchmark import Benchmark
from tvmquant.runtime.bundle import read_manifest
from tvmquant.runtime.compiled_model import CompiledModel
from tvmquant.runtime.footprint import Footprint
from tvmquant.runtime.manifest import LayerInfo, Manifest, TensorInfo, current_versions
from tvmquant.runtime.opening import load
from tvmquant.runtime.profile import LayerTime, Profile

__all__ = [
    "Benchmark",
    "CompiledModel",
    "Footprint",
    "LayerInfo",
    "LayerTime",
    "Manifest",
    "Profile",
    "TensorInfo",
    "current_versions",
    "load",
    "read_manifest",
]
