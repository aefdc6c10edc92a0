"""CUDA architectures: which products of integers their tensor cores really have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from tvmquant.errors import TargetError


@dataclass(frozen=True)
class Arch:
    """One compute capability.

    Attributes
    ----------
    sm : int
        For example 80.
    about : str
        GPUs that have it.
    int4 : bool
        Whether products of 4-bit integers run on tensor cores. Later architectures accept the
        instruction and compile it to products of bytes.
    bits : str
        How products of single bits are combined on tensor cores: ``xor``, ``and``, or empty
        where they are emulated.
    shared_bytes : int
        Shared memory that a block may have.
    multiprocessors : int
        Of a typical GPU, to choose tiles by.
    wgmma : bool
        Whether four warps together have products of their own, which run beside other
        instructions. Code for them is code for this architecture alone.
    cache_bytes : int
        Cache that all multiprocessors of such a GPU share.
    """

    sm: int
    about: str
    int4: bool
    bits: str
    shared_bytes: int
    multiprocessors: int
    wgmma: bool = False
    cache_bytes: int = 0

    @property
    def name(self) -> str:
        """For example ``sm_80``."""
        return f"sm_{self.sm}"

    @property
    def compiled(self) -> str:
        """What nvcc has to make, ``sm_90a`` where the code needs what only this one has."""
        return self.name + "a" * self.wgmma

    def blocks_by_memory(self, shared_bytes: int) -> int:
        """Blocks with so much shared memory that a multiprocessor has room for."""
        # From sm_80 on each block has another kilobyte, which is not its own.
        own = 1024 if self.sm >= 80 else 0
        return (self.shared_bytes + own) // max(1, shared_bytes + own)

    @property
    def products(self) -> tuple[str, ...]:
        """What its tensor cores multiply: ``U8S8``, ``U4S4``, ``BITS_XOR``, ``BITS_AND``."""
        found = ["U8S8"]
        if self.int4:
            found.append("U4S4")
        if self.bits:
            found.append(f"BITS_{self.bits.upper()}")
        # ANDs came with sm_80, beside the XORs.
        if self.bits == "xor" and self.sm >= 80:
            found.append("BITS_AND")
        return tuple(found)


ARCHES = {
    arch.sm: arch
    for arch in (
        Arch(75, "T4, RTX 20", True, "xor", 64 << 10, 40, cache_bytes=4 << 20),
        Arch(80, "A100, A30", True, "xor", 163 << 10, 108, cache_bytes=40 << 20),
        Arch(86, "A10, A40, RTX 30", True, "xor", 99 << 10, 72, cache_bytes=6 << 20),
        Arch(89, "L4, L40, RTX 40", True, "xor", 99 << 10, 58, cache_bytes=48 << 20),
        Arch(90, "H100, H200", False, "and", 227 << 10, 132, True, cache_bytes=50 << 20),
        Arch(100, "B200", False, "", 227 << 10, 148, cache_bytes=126 << 20),
        Arch(120, "RTX 50", False, "", 99 << 10, 84, cache_bytes=64 << 20),
    )
}


def cuda_names() -> list[str]:
    """Names of the targets of all architectures, for example ``cuda-sm_80``."""
    return [f"cuda-{arch.name}" for arch in ARCHES.values()]


def arch_of(name: str) -> Arch:
    """Architecture of a name such as ``sm_80``.

    Raises
    ------
    TargetError
        If there is none.
    """
    number = name.removeprefix("sm_").rstrip("a")
    arch = ARCHES.get(int(number)) if number.isdigit() else None
    if arch is None:
        known = ", ".join(arch.name for arch in ARCHES.values())
        raise TargetError(f"unknown CUDA architecture {name!r}: use {known}")
    return arch


def nearest_arch(name: str) -> Arch:
    """The architecture to compile for, for a GPU that may be of one without an entry here.

    Raises
    ------
    TargetError
        If there is none whose machine code runs there.
    """
    # Only GPUs that are there have such names.
    from tvmquant.runtime.gpu import runs_on

    usable = [arch for arch in ARCHES.values() if runs_on(arch.name, name)]
    return max(usable, key=lambda arch: arch.sm) if usable else arch_of(name)


def common_arch(archs: Sequence[Arch]) -> Arch:
    """What kernels may use that must run on all of these: the least of every property.

    The products are those that none of them emulates.
    """
    lowest = min(archs, key=lambda arch: arch.sm)
    shared = set.intersection(*(set(arch.products) for arch in archs))
    values: dict[str, Any] = {}
    for field in fields(Arch):
        given = [getattr(arch, field.name) for arch in archs]
        if isinstance(given[0], bool):
            values[field.name] = all(given)
    values["shared_bytes"] = min(arch.shared_bytes for arch in archs)
    kinds = [kind for kind in ("xor", "and") if f"BITS_{kind.upper()}" in shared]
    values["bits"] = kinds[0] if kinds else ""
    return replace(lowest, **values)


def cuda_target(name: str, host: dict[str, Any]) -> dict[str, Any] | None:
    """TVM target of ``cuda`` (the GPU of this machine) or ``cuda-sm_80``; ``None`` for others.

    Parameters
    ----------
    name : str
    host : dict
        Target of this machine's processor. The one that launches the kernels is any of its kind.

    Raises
    ------
    TargetError
        If there is no such architecture, or no GPU to ask for its own.
    """
    if name != "cuda" and not name.startswith("cuda-"):
        return None
    arch = arch_of(name.removeprefix("cuda-")) if name != "cuda" else _local_arch()
    return {"kind": "cuda", "arch": arch.name, "host": _any_processor(host)}


def _any_processor(host: dict[str, Any]) -> dict[str, Any]:
    """Without what only this machine may have: the model may run on another one."""
    # It only launches kernels: nothing is lost.
    kind = "x86-64-v2" if host["mtriple"].startswith("x86_64") else "generic"
    return {key: value for key, value in host.items() if key != "mattr"} | {"mcpu": kind}


def _local_arch() -> Arch:
    # Only this one target needs it.
    from tvmquant.runtime.gpu import local_gpu

    gpu = local_gpu()
    if gpu is None:
        raise TargetError(
            "this machine has no NVIDIA GPU (or no driver): name an architecture, for example "
            "cuda-sm_80, to compile for another machine"
        )
    return nearest_arch(gpu.arch)
