"""The devices that tvmquant compiles for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import psutil
import tvm

from tvmquant.errors import TargetError
from tvmquant.targets.boards import find_board, known_names
from tvmquant.targets.cuda import Arch, arch_of, common_arch, cuda_names, cuda_target
from tvmquant.targets.hwcap import arm_features


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
    gpu : str
        Name of the GPU, where it is known: measurements are those of one model.
    fatbin : tuple of str
        Further CUDA architectures that there must be machine code for.
    """

    name: str
    target_json: str
    features: frozenset[str]
    num_cores: int = 1
    gpu: str = ""
    fatbin: tuple[str, ...] = ()

    @property
    def target(self) -> tvm.target.Target:
        """The TVM target."""
        target = json.loads(self.target_json)
        arch = self.cuda
        return tvm.target.Target(target | {"arch": arch.compiled} if arch else target)

    @property
    def architecture(self) -> str:
        """First part of the target's triple, for example ``x86_64`` or ``aarch64``."""
        target = json.loads(self.target_json)
        triple = target.get("host", target).get("mtriple") or _system_triple()
        architecture = str(triple).split("-")[0]
        return {"arm64": "aarch64", "amd64": "x86_64"}.get(architecture, architecture)

    @property
    def cuda(self) -> Arch | None:
        """What the GPUs that the code is for have in common; ``None`` for processors."""
        archs = [arch_of(name) for name in self.cuda_archs]
        return common_arch(archs) if archs else None

    @property
    def cuda_archs(self) -> tuple[str, ...]:
        """CUDA architectures that there will be machine code for, lowest first."""
        target = json.loads(self.target_json)
        if target["kind"] != "cuda":
            return ()
        return tuple(sorted({target["arch"], *self.fatbin}, key=lambda name: arch_of(name).sm))

    @property
    def compiled_archs(self) -> tuple[str, ...]:
        """The same as nvcc has to make them, for example ``sm_90a``."""
        common = self.cuda
        special = "a" if common is not None and common.wgmma else ""
        return tuple(name + special for name in self.cuda_archs)

    @property
    def isa(self) -> str:
        """Best instruction set for integer dot products.

        ``cuda``; ``avx512_vnni``, ``avx_vnni``, ``avx2``; on 64-bit ARM ``neon_i8mm`` (with dot
        products, too), ``neon_dotprod``, ``neon``; else ``generic`` (plain vector code, any
        processor).
        """
        if "cuda" in self.features:
            return "cuda"
        if self.architecture == "aarch64" and "neon" in self.features:
            if {"i8mm", "dotprod"} <= self.features:
                return "neon_i8mm"
            return "neon_dotprod" if "dotprod" in self.features else "neon"
        if {"avx512vnni", "avx512vl", "avx512bw"} <= self.features:
            return "avx512_vnni"
        if {"avxvnni", "avx2"} <= self.features:
            return "avx_vnni"
        return "avx2" if "avx2" in self.features else "generic"

    def without(self, *features: str) -> Device:
        """Copy that must not use ``features`` (to test kernels of lesser processors)."""
        target = json.loads(self.target_json)
        target["mattr"] = [*target.get("mattr", []), *(f"-{name}" for name in features)]
        left = self.features - set(features)
        return replace(self, target_json=json.dumps(target), features=left)

    def with_fatbin(self, names: Iterable[str]) -> Device:
        """Copy with machine code for further CUDA architectures, for example ``sm_90``.

        Kernels are then chosen among those that all of them run without emulation.

        Raises
        ------
        TargetError
            If this is no GPU, or there is no such architecture.
        """
        archs = {f"sm_{arch_of(name).sm}": None for name in names}
        if not self.cuda_archs:
            raise TargetError(
                f"a fatbin is for NVIDIA GPUs, not for {self.name}: give a target such as "
                f"{cuda_names()[0]}"
            )
        lowest, *others = replace(self, fatbin=tuple(archs)).cuda_archs
        # TVM's own checks go by the target's architecture: it is what all of them can do.
        target = json.loads(self.target_json) | {"arch": lowest}
        return replace(
            self,
            name=f"cuda-{lowest}",
            target_json=json.dumps(target),
            features=self.features | {lowest, *others},
            fatbin=tuple(others),
        )


_STEERING = (
    "sse4.1",
    "ssse3",
    "avx2",
    "fma",
    "f16c",
    "avxvnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512vnni",
    "avx512vbmi",
    "avx512vpopcntdq",
    "neon",
    "dotprod",
    "i8mm",
)


def _features(target: dict[str, Any]) -> frozenset[str]:
    with tvm.target.Target(target):
        return frozenset(f for f in _STEERING if tvm.target.codegen.target_has_features(f))


@cache
def _system_triple() -> str:
    return str(tvm.target.codegen.llvm_get_system_triple())


@cache
def _host() -> Device:
    cpu = tvm.target.codegen.llvm_get_system_cpu()
    triple = _system_triple()
    cores = psutil.cpu_count(logical=False) or 1
    target = {"kind": "llvm", "mtriple": triple, "mcpu": cpu, "num-cores": cores}
    unknown = sorted((arm_features() or frozenset()) - _features(target))
    if unknown:
        target["mattr"] = [f"+{name}" for name in unknown]
    return Device("host", json.dumps(target), _features(target), cores)


def get_device(target: Any = "host") -> Device:
    """Find a device.

    Parameters
    ----------
    target : str, dict, tvm.target.Target or Device
        ``"host"``, the name of a board (``rpi3``, ``rpi4``, ``rpi5``, ``arm_cpu``, ``aarch64``,
        ``armv7l``) with optional features as in ``aarch64+dotprod``, ``cuda`` (the GPU of this
        machine) or a GPU's architecture as in ``cuda-sm_80``, a tag of TVM such as
        ``raspberry-pi/4b-aarch64``, a TVM target dictionary of kind ``llvm`` or a TVM ``Target``.

    Raises
    ------
    TargetError
        If the target is unknown.
    """
    if isinstance(target, Device):
        return target
    if target == "host":
        return _host()
    if isinstance(target, str):
        gpu = cuda_target(target, json.loads(_host().target_json))
        if gpu is not None:
            return _cuda(target, gpu)
        found = find_board(target)
        if found is not None:
            board, extra = found
            return _device("+".join([board.name, *extra]), board.target(extra))
        return _device(target, _tag(target))
    return _device(None, target)


def _cuda(name: str, target: dict[str, Any]) -> Device:
    """A GPU, and the processor beside it."""
    features, gpu = frozenset({"cuda", target["arch"]}), ""
    if name == "cuda":
        # Only this one target needs a GPU.
        from tvmquant.runtime.gpu import local_gpu

        here = local_gpu()
        gpu = "" if here is None else here.name
    return Device(name, json.dumps(target), features, _host().num_cores, gpu)


def _tag(name: str) -> tvm.target.Target:
    """The target of a tag of TVM."""
    if name in tvm.target.list_tags():
        return tvm.target.Target(name)
    raise TargetError(
        f"unknown target {name!r}: use {', '.join(known_names())}, cuda (this machine's GPU), a "
        "tag of TVM such as raspberry-pi/4b-aarch64, or a TVM target dictionary such as "
        "{'kind': 'llvm', 'mcpu': 'x86-64-v3'}"
    )


def _device(name: str | None, target: Any) -> Device:
    try:
        if isinstance(target, tvm.target.Target):
            target = _settings(target)
        if not isinstance(target, dict) or target.get("kind") != "llvm":
            what = target if name is None else f"{name} ({target.get('kind')})"
            raise TargetError(
                f"unknown target {what!r}: use {', '.join(known_names())}, or a TVM target "
                "dictionary of kind llvm such as {'kind': 'llvm', 'mcpu': 'x86-64-v3'}"
            )
        tvm.target.Target(target)
        cores = int(target.get("num-cores", 1))
        name = name or str(target.get("mcpu", "llvm"))
        return Device(name, json.dumps(target), _features(target), cores)
    except TargetError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[-1]
        raise TargetError(f"TVM refuses the target {target!r}: {first}") from None


def _settings(target: tvm.target.Target) -> dict[str, Any]:
    """What a user would have written to get ``target``: TVM adds what it derived."""
    text = str(target)
    settings = json.loads(text) if text.startswith("{") else dict(target.export())
    derived = ("keys", "tag", "host")
    return {
        key: value
        for key, value in settings.items()
        if key not in derived and not key.startswith("feature.")
    }
