"""Measuring this processor as if it were a lesser one."""

from __future__ import annotations

import os
from typing import Any

# What oneDNN, inside OpenVINO, calls each; the fastest first.
ISAS = {"host": None, "avx_vnni": "AVX2_VNNI", "avx2": "AVX2"}
# The other engines look at the processor itself and cannot be told.
OBEDIENT = ("tvmquant", "openvino")
_OURS, _ONEDNN = "TVMQUANT_BENCHMARK_ISA", "ONEDNN_MAX_CPU_ISA"


def limit(isa: str) -> None:
    """Limit tvmquant and OpenVINO in this process and its children; before they are imported.

    Raises
    ------
    tvmquant.errors.InputError
        If this processor cannot do even that.
    """
    if isa == "host":
        os.environ.pop(_OURS, None)
        return
    os.environ[_OURS], os.environ[_ONEDNN] = isa, str(ISAS[isa])
    device()


def limited() -> str:
    """What was set, ``host`` if nothing was."""
    return os.environ.get(_OURS, "host")


def device() -> Any:
    """What tvmquant compiles for."""
    from tvmquant.tuning.ship import device_with

    return device_with(limited())


def suffix(isa: str) -> str:
    """What the names of the result files get."""
    return "" if isa == "host" else f"_{isa}"


def obeys(engine: str) -> bool:
    """Whether the engine keeps to the limit that is set."""
    return limited() == "host" or engine in OBEDIENT
