"""The devices that tvmquant compiles for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import psutil
import tvm

from tvmquant.errors import TargetError


@dataclass(frozen=True)
class Device:
    """A device: where code runs and what its processor can do.

    Attributes
    ----------
    name : str
        Name the user gave, for example ``host``.
    target_json : str
        The TVM target as JSON (a string, so that a device can be hashed).
    features : frozenset of str
        LLVM names of the instruction-set features that steer the choice of kernels, for example
        ``avx2``, ``avxvnni``, ``avx512vnni``.
    num_cores : int
    """

    name: str
    target_json: str
    features: frozenset[str]
    num_cores: int = 1

    @property
    def target(self) -> tvm.target.Target:
        """The TVM target."""
        return tvm.target.Target(json.loads(self.target_json))

    @property
    def isa(self) -> str:
        """Best instruction set for integer dot products.

        ``avx512_vnni``, ``avx_vnni``, ``avx2``, or ``generic`` (plain vector code, any processor).
        """
        if {"avx512vnni", "avx512vl", "avx512bw"} <= self.features:
            return "avx512_vnni"
        if {"avxvnni", "avx2"} <= self.features:
            return "avx_vnni"
        return "avx2" if "avx2" in self.features else "generic"

    def without(self, *features: str) -> Device:
        """Copy that must not use ``features`` (to test kernels of lesser processors)."""
        target = json.loads(self.target_json)
        target["mattr"] = [*target.get("mattr", []), *(f"-{name}" for name in features)]
        return Device(
            self.name, json.dumps(target), self.features - set(features), self.num_cores
        )


_STEERING = ("sse4.1", "ssse3", "avx2", "fma", "f16c", "avxvnni", "avx512f", "avx512bw",
             "avx512vl", "avx512vnni", "avx512vbmi", "avx512vpopcntdq", "neon", "dotprod", "i8mm")


def _features(target: dict[str, Any]) -> frozenset[str]:
    with tvm.target.Target(target):
        return frozenset(f for f in _STEERING if tvm.target.codegen.target_has_features(f))


@cache
def _host() -> Device:
    cpu = tvm.target.codegen.llvm_get_system_cpu()
    triple = tvm.target.codegen.llvm_get_system_triple()
    cores = psutil.cpu_count(logical=False) or 1
    target = {"kind": "llvm", "mtriple": triple, "mcpu": cpu, "num-cores": cores}
    return Device("host", json.dumps(target), _features(target), cores)


def get_device(target: Any = "host") -> Device:
    """Find a device.

    Parameters
    ----------
    target : str, dict, tvm.target.Target or Device
        ``"host"``, a TVM target dictionary of kind ``llvm`` or a TVM ``Target``.

    Raises
    ------
    TargetError
        If the target is unknown.
    """
    if isinstance(target, Device):
        return target
    if target == "host":
        return _host()
    try:
        if isinstance(target, tvm.target.Target):
            target = json.loads(str(target)) if str(target).startswith("{") else dict(target.export())
        if not isinstance(target, dict) or target.get("kind") != "llvm":
            raise TargetError(
                f"unknown target {target!r}: use 'host' or a TVM target dictionary such as "
                "{'kind': 'llvm', 'mcpu': 'x86-64-v3'}"
            )
        tvm.target.Target(target)
        cores = int(target.get("num-cores", 1))
        return Device(str(target.get("mcpu", "llvm")), json.dumps(target), _features(target), cores)
    except TargetError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[-1]
        raise TargetError(f"TVM refuses the target {target!r}: {first}") from None
