"""tvmquant: a low-bit quantization compiler on Apache TVM.

The names below are imported on first use, so that ``import tvmquant`` and ``tvmquant --help``
do not wait for TVM.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from tvmquant._versions import check_versions

__version__ = "0.1.0"

check_versions()


def _default_threads() -> str:
    """Physical cores this process may use: TVM's pool has one thread when nobody says more."""
    import psutil

    allowed = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else 1
    return str(max(1, min(psutil.cpu_count(logical=False) or 1, allowed)))


# TVM reads it once, when its thread pool starts.
if "TVM_NUM_THREADS" not in os.environ:
    os.environ["TVM_NUM_THREADS"] = _default_threads()

_HOME = {
    "compile": "tvmquant.compiler",
    "quantize": "tvmquant.quantizer",
    "load": "tvmquant.runtime.opening",
    "CompiledModel": "tvmquant.runtime.compiled_model",
    "Benchmark": "tvmquant.runtime.benchmark",
    "Profile": "tvmquant.runtime.profile",
    "Manifest": "tvmquant.runtime.manifest",
    "Trials": "tvmquant.tuning.trials",
    "Recipe": "tvmquant.recipe",
    "QuantSpec": "tvmquant.quant_spec",
    "LayerRule": "tvmquant.quant_spec",
    "TvmQuantError": "tvmquant.errors",
    "AccuracyError": "tvmquant.errors",
    "InputError": "tvmquant.errors",
    "ModelError": "tvmquant.errors",
    "UnsupportedOperatorError": "tvmquant.errors",
    "CalibrationError": "tvmquant.errors",
    "TargetError": "tvmquant.errors",
    "RecipeError": "tvmquant.errors",
    "BundleError": "tvmquant.errors",
    "RemoteError": "tvmquant.errors",
}

if TYPE_CHECKING:
    from tvmquant.compiler import compile
    from tvmquant.errors import (
        AccuracyError,
        BundleError,
        CalibrationError,
        InputError,
        ModelError,
        RecipeError,
        RemoteError,
        TargetError,
        TvmQuantError,
        UnsupportedOperatorError,
    )
    from tvmquant.quant_spec import LayerRule, QuantSpec
    from tvmquant.quantizer import quantize
    from tvmquant.recipe import Recipe
    from tvmquant.runtime.benchmark import Benchmark
    from tvmquant.runtime.compiled_model import CompiledModel
    from tvmquant.runtime.manifest import Manifest
    from tvmquant.runtime.opening import load
    from tvmquant.runtime.profile import Profile
    from tvmquant.tuning.trials import Trials

__all__ = [
    "AccuracyError",
    "Benchmark",
    "BundleError",
    "CalibrationError",
    "CompiledModel",
    "InputError",
    "LayerRule",
    "Manifest",
    "ModelError",
    "Profile",
    "QuantSpec",
    "Recipe",
    "RecipeError",
    "RemoteError",
    "TargetError",
    "Trials",
    "TvmQuantError",
    "UnsupportedOperatorError",
    "__version__",
    "compile",
    "load",
    "quantize",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tvmquant' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
