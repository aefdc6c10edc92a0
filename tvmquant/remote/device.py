"""What a device that runs ``tvmquant serve`` tells and does, by the names it is called with."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tvmquant.runtime.manifest import current_versions
from tvmquant.targets.hwcap import arm_features

# Names of the functions that a session on the device offers.
INFO = "tvmquant.device.info"
MEMORY = "tvmquant.device.memory"
PROFILE = "tvmquant.device.profile"

# x86 flags of /proc/cpuinfo → what LLVM, and so the rest of tvmquant, calls them.
_FLAGS = {
    "sse4_1": "sse4.1",
    "ssse3": "ssse3",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx_vnni": "avxvnni",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512vl": "avx512vl",
    "avx512_vnni": "avx512vnni",
    "avx512vbmi": "avx512vbmi",
    "avx512_vpopcntdq": "avx512vpopcntdq",
}

# "CPU part" of implementer 0x41 (Arm Ltd.), from the Main ID registers in Arm's manuals.
_ARM_PARTS = {
    0xC07: "Cortex-A7",
    0xC0F: "Cortex-A15",
    0xD03: "Cortex-A53",
    0xD04: "Cortex-A35",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse-N1",
    0xD40: "Neoverse-V1",
    0xD41: "Cortex-A78",
    0xD49: "Neoverse-N2",
}


@dataclass(frozen=True)
class DeviceInfo:
    """A device.

    Attributes
    ----------
    cpu : str
        Name of the processor, with that of the board where the system knows it.
    machine : str
        Architecture as in ``platform.machine()``.
    features : tuple of str
        Instruction-set features by LLVM's names, as far as they steer the choice of kernels;
        empty when unknown.
    cores : int
    memory_mb : float
        Main memory in 10**6 bytes.
    versions : dict
        Of the packages that a compiled model depends on.
    gpu, gpu_arch : str
        Name and CUDA architecture of the first GPU, empty where there is none.
    """

    cpu: str
    machine: str
    features: tuple[str, ...] = ()
    cores: int = 1
    memory_mb: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    gpu: str = ""
    gpu_arch: str = ""

    def __str__(self) -> str:
        text = f"{self.cpu} ({self.machine}, {self.cores} cores, {self.memory_mb:.0f} MB)"
        return f"{text}, {self.gpu} ({self.gpu_arch})" if self.gpu else text

    def to_json(self) -> str:
        """As text, for the way."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> DeviceInfo:
        """Inverse of :meth:`to_json`.

        Raises
        ------
        ValueError
            If the text is something else.
        """
        try:
            data = json.loads(text)
            return cls(
                str(data["cpu"]),
                str(data["machine"]),
                tuple(map(str, data["features"])),
                int(data["cores"]),
                float(data["memory_mb"]),
                {str(k): str(v) for k, v in data["versions"].items()},
                str(data.get("gpu", "")),
                str(data.get("gpu_arch", "")),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no description of a device: {error!r}") from None


def this_device() -> DeviceInfo:
    """The machine this runs on; needs no compiler.

    Looks for a GPU, and CUDA is no use in forks of the process that did.
    """
    from tvmquant.runtime.gpu import local_gpu

    facts, gpu = _cpuinfo(), local_gpu()
    return DeviceInfo(
        _name(facts),
        platform.machine(),
        tuple(sorted(_features(facts))),
        psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        psutil.virtual_memory().total / 1e6,
        current_versions(),
        "" if gpu is None else gpu.name,
        "" if gpu is None else gpu.arch,
    )


def describe() -> str:
    """:func:`this_device` as text, found out by a process that ends again."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as executor:
        return str(executor.submit(this_device).result())


def offer() -> None:
    """Register the functions, in the process that serves a session."""
    import tvm_ffi

    from tvmquant.runtime.gpu import load_cuda, offer_flush

    def register(name: str, function: Any) -> None:
        tvm_ffi.register_global_func(name, function, override=True)

    register(INFO, lambda: this_device().to_json())
    register(MEMORY, _memory)
    register(PROFILE, _profile)
    if load_cuda() is None:
        offer_flush()


def _memory() -> str:
    from tvmquant.runtime.benchmark import process_memory

    return json.dumps(process_memory())


def _profile(module: Any, manifest: str, repeats: int, threads: int, *tensors: Any) -> str:
    """Times of the layers, as :func:`tvmquant.runtime.profile.measure` takes them."""
    from tvm.runtime.vm import VirtualMachine

    from tvmquant.runtime.gpu import device_for
    from tvmquant.runtime.manifest import Manifest
    from tvmquant.runtime.profile import measure

    layers = Manifest.from_dict(json.loads(manifest))
    machine = VirtualMachine(module, device_for(layers))
    profile = measure(machine, layers, tensors, repeats=repeats, threads=threads)
    times = [row.microseconds for row in profile.rows]
    return json.dumps({"us": times, "total_us": profile.total_us, "threads": profile.threads})


def _cpuinfo() -> dict[str, str]:
    """First entry of each name in /proc/cpuinfo; empty where there is none."""
    facts: dict[str, str] = {}
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return facts
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            facts.setdefault(name.strip(), value.strip())
    return facts


def _features(facts: dict[str, str]) -> set[str]:
    """LLVM's names of the features; empty on a system that does not tell."""
    if platform.machine() in ("x86_64", "AMD64"):
        return {_FLAGS[flag] for flag in facts.get("flags", "").split() if flag in _FLAGS}
    return set(arm_features() or ())


def _name(facts: dict[str, str]) -> str:
    name = facts.get("model name", "")
    if platform.machine() in ("aarch64", "armv7l"):
        # Emulators show the processor that they run on: the number of the part is Arm's own.
        try:
            part = int(facts["CPU part"], 16)
            name = _ARM_PARTS.get(part, f"Arm part {part:#x}")
        except (KeyError, ValueError):
            name = "unknown Arm processor"
    name = name or platform.processor() or platform.machine()
    try:
        # Filled by the firmware of single-board computers.
        board = Path("/proc/device-tree/model").read_text(encoding="utf-8").strip("\0 \n")
    except (OSError, UnicodeDecodeError):
        return name
    return f"{board}, {name}"
