"""One measurement, as a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from tvmquant.runtime.manifest import current_versions
from tvmquant.schedules.space import Choice
from tvmquant.schedules.workload import Workload
from tvmquant.targets.device import Device

FORMAT = 1


@dataclass(frozen=True)
class Processor:
    """What a measurement was made on.

    Attributes
    ----------
    isa : str
        See :func:`instruction_set`.
    cpu : str
        LLVM's name of the processor, for example ``znver3``; of a GPU what its driver calls it,
        ``generic`` where that is not known.
    features : tuple of str
        Features that steer the choice of kernels, sorted.
    """

    isa: str
    cpu: str
    features: tuple[str, ...]

    @classmethod
    def of(cls, device: Device) -> Processor:
        """The processor of a device."""
        if device.cuda is not None:
            cpu = device.gpu or "generic"
            return cls(instruction_set(device), cpu, tuple(sorted(device.features)))
        target = json.loads(device.target_json)
        # A device that must not use some features is not the processor it runs on.
        cpu = str(target.get("mcpu", "generic")) + "".join(map(str, target.get("mattr", ())))
        return cls(instruction_set(device), cpu, tuple(sorted(device.features)))


def instruction_set(device: Device) -> str:
    """``Device.isa``, the generic one divided by vector unit: ``sse``, ``neon``, ``generic``.

    GPUs are divided by architecture: ``cuda_sm_90``.
    """
    if device.cuda is not None:
        return f"cuda_{device.cuda.name}"
    if device.isa != "generic":
        return device.isa
    units = {"ssse3": "sse", "neon": "neon"}
    return next((name for feature, name in units.items() if feature in device.features), "generic")


def workload_to_dict(workload: Workload) -> dict[str, Any]:
    """The fields that differ from their defaults: new fields leave old records valid."""
    values = asdict(workload)
    plain = {f.name: f.default for f in fields(Workload)}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value != plain[name]
    }


def workload_from_dict(data: Mapping[str, Any]) -> Workload:
    """Inverse of :func:`workload_to_dict`; ``TypeError`` for unknown fields."""
    return Workload(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})


def config_key(config: Mapping[str, Any]) -> str:
    """Canonical text of a configuration."""
    return json.dumps(config, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class Record:
    """One candidate, measured or failed.

    Attributes
    ----------
    workload : Workload
    processor : Processor
    threads : int
    rule : str
        Full name of the rule that makes the kernel.
    config : mapping
        Its sizes, empty for a kernel without a space.
    seconds : float or None
        Time of one run; ``None`` if the candidate failed.
    error : str
        Why it failed.
    versions : mapping
        Package versions.
    """

    workload: Workload
    processor: Processor
    threads: int
    rule: str
    config: Mapping[str, Any]
    seconds: float | None
    error: str = ""
    versions: Mapping[str, str] = field(default_factory=current_versions)

    @property
    def key(self) -> tuple[str, str]:
        """Identity of the candidate within its workload."""
        return self.rule, config_key(self.config)

    @property
    def choice(self) -> Choice:
        """What a compilation needs of it."""
        return Choice(self.rule, dict(self.config))

    def to_json(self) -> str:
        """One line without its end."""
        data = {
            "format": FORMAT,
            "workload": workload_to_dict(self.workload),
            "processor": asdict(self.processor),
            "threads": self.threads,
            "rule": self.rule,
            "config": dict(self.config),
            "seconds": self.seconds,
            "error": self.error,
            "versions": dict(self.versions),
        }
        return json.dumps(data, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Read :meth:`to_json` back.

        Raises
        ------
        ValueError, KeyError, TypeError
            If the line is damaged or of another format.
        """
        data = json.loads(line)
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']}, this tvmquant reads {FORMAT}")
        processor, seconds = data["processor"], data["seconds"]
        features = tuple(map(str, processor["features"]))
        if seconds is not None and not float(seconds) > 0:
            raise ValueError(f"seconds {seconds}")
        return cls(
            workload_from_dict(data["workload"]),
            Processor(str(processor["isa"]), str(processor["cpu"]), features),
            int(data["threads"]),
            str(data["rule"]),
            dict(data["config"]),
            None if seconds is None else float(seconds),
            str(data["error"]),
            dict(data["versions"]),
        )
