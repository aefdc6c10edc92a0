"""Search spaces: the sizes of a kernel that the tuner may change.

A kernel takes part in tuning as it is, with the sizes its rule chose. One that also has the two
methods of :class:`Tunable` is measured at other sizes too. Which sizes are chosen never changes
what an integer kernel computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from tvmquant.schedules.workload import Kernel, Workload
from tvmquant.targets.device import Device

# Plain JSON: names of sizes to integers (or strings, or lists of them).
Config = Mapping[str, Any]


class ConfigError(ValueError):
    """A kernel has no such sizes: they came from another version or were edited by hand."""


@runtime_checkable
class Tunable(Protocol):
    """A kernel with sizes to choose from.

    It may also have ``estimate(config) -> float``, the relative cost that its own model expects
    (lower is better); the tuner then starts with the configurations that look cheapest. And
    ``facts(config) -> dict of str to float``, positive numbers that a learned model should see.
    """

    def configs(self) -> list[Config]:
        """All configurations worth trying, the kernel's own default first.

        Empty for a kernel that only has configurations which are found in another way.
        """

    def with_config(self, config: Config) -> Kernel:
        """The same kernel at other sizes.

        Raises
        ------
        ConfigError
            If this workload cannot have them.
        """


@dataclass(frozen=True)
class Choice:
    """Which kernel of a workload: the rule that makes it and its sizes.

    Attributes
    ----------
    rule : str
        Full name, see :func:`tvmquant.schedules.registry.named_rules`.
    config : mapping
        Empty for the rule's default.
    """

    rule: str
    config: Config


class TuningDatabase(Protocol):
    """What kernels are chosen from; see :class:`tvmquant.tuning.Database`."""

    def ranked(self, workload: Workload, device: Device) -> Sequence[Choice]:
        """Measured choices, the fastest first; empty for an unknown workload."""

    def seconds(self, workload: Workload, device: Device) -> float | None:
        """Time of the fastest choice on exactly this processor; ``None`` if unknown."""


def configs_of(kernel: Kernel) -> list[Config]:
    """Configurations of any kernel; ``[{}]`` for one without a space."""
    return list(kernel.configs()) if isinstance(kernel, Tunable) else [{}]


def configured(kernel: Kernel, config: Config) -> Kernel:
    """``kernel`` at the sizes ``config``; an empty one leaves it as it is."""
    if not config:
        return kernel
    if not isinstance(kernel, Tunable):
        raise ConfigError(f"{kernel.name} has no sizes to choose, got {dict(config)}")
    return kernel.with_config(config)


def estimate_of(kernel: Kernel, config: Config) -> float | None:
    """Relative cost by the kernel's own model, if it has one."""
    estimate = getattr(kernel, "estimate", None)
    return None if estimate is None else float(estimate(config))


def integers(config: Config, *names: str) -> tuple[int, ...]:
    """The values of exactly these names.

    Raises
    ------
    ConfigError
        If a name is missing, unknown, or not a positive integer.
    """
    if set(config) != set(names):
        raise ConfigError(f"sizes {sorted(config)} where {sorted(names)} are needed")
    values = tuple(config[name] for name in names)
    if not all(isinstance(value, int) and value > 0 for value in values):
        raise ConfigError(f"sizes must be positive integers, got {dict(config)}")
    return values
