"""Integer convolutions and matrix products on tensor cores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from tvmquant.reference import wrap_int32
from tvmquant.schedules.cuda.candidates import choose, known_plans, plans
from tvmquant.schedules.cuda.estimate import estimate, registers
from tvmquant.schedules.cuda.facts import facts_of
from tvmquant.schedules.cuda.geometry import channel_constants, name_of
from tvmquant.schedules.cuda.launch import Launch, program
from tvmquant.schedules.cuda.packed import packed_weight
from tvmquant.schedules.cuda.packing import pack_weights
from tvmquant.schedules.cuda.plan import Plan
from tvmquant.schedules.cuda.stages import arguments_of, launches_of, scratch_of
from tvmquant.schedules.emitted import FusedKernel
from tvmquant.schedules.space import Config, ConfigError
from tvmquant.schedules.workload import Workload
from tvmquant.targets.cuda import Arch


@dataclass(frozen=True)
class TensorCoreKernel(FusedKernel):
    """One kernel; see :file:`assets/cuda/igemm.cuh`.

    Attributes
    ----------
    workload : Workload
        ``conv2d`` or ``matmul``.
    arch : Arch
    plan : Plan
    """

    workload: Workload
    arch: Arch
    plan: Plan

    @property
    def name(self) -> str:
        """Name of the kernel, unique for its workload and architecture."""
        suffix = f"{self.plan.product.lower()}_{self.arch.name}"
        return name_of(self.workload, suffix, self.plan)

    @property
    def label(self) -> str:
        """For profiles."""
        p = self.plan
        sliced = f"/{p.slices}" if p.slices > 1 else ""
        split = f" in {p.splits} parts" if p.splits > 1 else ""
        packed = " packed" if p.packed else ""
        return f"{p.product.lower()} {p.block_m}x{p.block_n}x{p.block_k}{sliced}{split}{packed}"

    def pack(
        self, weight: np.ndarray, bias: np.ndarray, params: tuple[np.ndarray, ...]
    ) -> list[np.ndarray]:
        """Weights in the order of the fragments, bias, requantize parameters of every channel."""
        outputs = self.workload.w_shape[0]
        total = bias.astype(np.int64)
        if self.plan.product == "BITS_XOR":
            total = total - (weight.reshape(outputs, -1) < 0).sum(1)
        whole = packed_weight(weight, self.workload, self.plan)
        packed = pack_weights(whole, self.workload.groups, self.plan)
        return [packed, *channel_constants(outputs, wrap_int32(total), *params)]

    @property
    def arguments(self) -> list[tuple[str, tuple[int, ...], str]]:
        """Arguments of the kernel: name, shape, dtype."""
        return arguments_of(self.workload, self.plan)

    @property
    def scratch(self) -> list[tuple[str, tuple[int, ...], str]]:
        """Memory between the launches: name, shape, dtype."""
        return scratch_of(self.workload, self.plan)

    @cached_property
    def launches(self) -> tuple[Launch, ...]:
        """Sources and launches, in order."""
        return launches_of(self.name, self.workload, self.plan, self.arch)

    @property
    def launch(self) -> Launch:
        """The launch that makes the products."""
        return next(launch for launch in self.launches if launch.name == self.name)

    def emit(self) -> Any:
        """Make ``(x, weights, bias, *params, qinfo, out)``."""
        return program(self.name, self.launches, self.arguments, self.scratch)

    def configs(self) -> list[Config]:
        """All sizes worth measuring, the own ones first, then by the model's estimate."""
        found = sorted(
            plans(self.workload, self.arch), key=lambda p: estimate(self.workload, p, self.arch)
        )
        return [self.plan.config, *(p.config for p in found if p != self.plan)]

    def with_config(self, config: Config) -> TensorCoreKernel:
        """The same kernel with another product or other sizes.

        Raises
        ------
        ConfigError
            If the layer cannot have them, or the architecture only emulates the product.
        """
        plan = self.plan.with_config(config, self.workload)
        plan.check(self.arch)
        if plan not in known_plans(self.workload, self.arch):
            raise ConfigError(f"{self.name} cannot have the sizes {dict(config)}")
        return replace(self, plan=plan)

    def estimate(self, config: Config) -> float:
        """Relative cost by the model."""
        plan = self.plan.with_config(config, self.workload)
        return estimate(self.workload, plan, self.arch)

    def facts(self, config: Config) -> dict[str, float]:
        """What a cost model should know of it."""
        plan = self.plan.with_config(config, self.workload)
        needed = registers(self.workload, plan, self.arch)
        return facts_of(self.workload, plan, self.arch, needed)


def tensor_core_kernel(workload: Workload, arch: Arch) -> TensorCoreKernel | None:
    """Kernel of a layer at the default sizes; ``None`` if it has none."""
    plan = choose(workload, arch)
    return None if plan is None else TensorCoreKernel(workload, arch, plan)
