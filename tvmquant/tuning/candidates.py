"""Everything that could compute a workload: all rules, all configurations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tvmquant.schedules.registry import considered_rules, named_rules, rules_key
from tvmquant.schedules.space import configs_of, estimate_of
from tvmquant.schedules.workload import Workload
from tvmquant.targets.device import Device
from tvmquant.tuning.record import config_key


@dataclass(frozen=True, eq=False)
class Candidate:
    """One rule with one configuration.

    Attributes
    ----------
    rule : str
    config : mapping
    estimate : float or None
        Cost by the kernel's own model, as a multiple of its default's; on a GPU of the first
        rule's default.
    default : bool
        Whether these are the sizes that the rule chooses on its own.
    kernel : object, optional
        The rule's kernel.
    """

    rule: str
    config: Mapping[str, Any]
    estimate: float | None
    default: bool
    kernel: Any = field(default=None, repr=False)

    @property
    def facts(self) -> Mapping[str, float]:
        """What the kernel says of these sizes besides; empty for most."""
        facts = getattr(self.kernel, "facts", None)
        return {} if facts is None else facts(self.config)

    @property
    def key(self) -> tuple[str, str]:
        """As :attr:`tvmquant.tuning.record.Record.key`."""
        return self.rule, config_key(self.config)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Candidate) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def candidates(workload: Workload, device: Device) -> list[Candidate]:
    """All candidates; first what is used without tuning, then the other rules' defaults.

    Rules that stand aside take part, see :func:`tvmquant.schedules.registry.register_rule`.
    """
    defaults, others, seen = [], [], []
    base: float | None = None
    key = rules_key(workload.op, device)
    made = {name: rule(workload, device) for name, rule in named_rules(key).items()}
    considered = considered_rules(key)
    # Whatever is first without tuning stays first.
    order = sorted(made, key=lambda name: made[name] is None)
    for name in order:
        kernel = made[name] or considered[name](workload, device)
        if kernel is None or kernel in seen:  # two rules may make the same kernel
            continue
        seen.append(kernel)
        configs = configs_of(kernel)
        if not configs:  # found in another way, see tvmquant.tuning.functions
            continue
        # Models of GPUs all count cycles; those of processors compare within a rule only.
        if base is None or device.cuda is None:
            base = estimate_of(kernel, configs[0]) or None
        for index, config in enumerate(configs):
            estimate = estimate_of(kernel, config)
            relative = None if estimate is None else estimate / (base or 1.0)
            (others if index else defaults).append(
                Candidate(name, config, relative, not index, kernel)
            )
    return [*defaults, *others]
