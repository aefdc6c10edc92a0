"""Integer convolutions and matrix products on tensor cores."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from tvmquant.reference import wrap_int32
from tvmquant.schedules.cuda.geometry import (
    definition,
    flavours,
    geometry,
    name_of,
    requantize_arguments,
    residual_argument,
    channel_constants,
    integer_arguments,
)
from tvmquant.schedules.cuda.launch import Launch
from tvmquant.schedules.cuda.packing import pack_weights
from tvmquant.schedules.cuda.plan import (
    SIZES,
    Plan,
    choose,
    estimate,
    plans,
    rows_of,
    vector_of,
)
from tvmquant.schedules.cuda.source import settings, with_headers
from tvmquant.schedules.depthwise.epilogue import PARAM_DTYPES
from tvmquant.schedules.space import Config, ConfigError
from tvmquant.schedules.workload import Workload
from tvmquant.targets.cuda import Arch


@dataclass(frozen=True)
class TensorCoreKernel:
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
        return f"{p.product.lower()} {p.block_m}x{p.block_n}x{p.block_k}{sliced}"

    def pack(
        self, weight: np.ndarray, bias: np.ndarray, params: tuple[np.ndarray, ...]
    ) -> list[np.ndarray]:
        """Weights in the order of the fragments, bias, requantize parameters of every channel."""
        outputs = self.workload.w_shape[0]
        total = bias.astype(np.int64)
        if self.plan.product == "BITS_XOR":
            total = total - (weight.reshape(outputs, -1) < 0).sum(1)
        packed = pack_weights(weight, self.workload.groups, self.plan)
        return [packed, *channel_constants(outputs, wrap_int32(total), *params)]

    @property
    def arguments(self) -> list[tuple[str, tuple[int, ...], str]]:
        """Arguments of the kernel: name, shape, dtype."""
        return integer_arguments(self.workload, (self._weight_bytes(),), "uint8")

    @cached_property
    def launch(self) -> Launch:
        """Source and launch of the kernel."""
        w, p = self.workload, self.plan
        values = {
            **geometry(w),
            **{key.upper(): getattr(p, key) for key in SIZES},
            "STEP_K": p.step,
            "WIDE": int(self.arch.sm >= 80),
            "W_BITS": p.w_bits,
            "VECTOR": vector_of(w, p),
            "STORE": math.gcd(16, w.w_shape[0] // w.groups, p.block_n),
            "THREADS": p.threads,
            "PARAMS": len(PARAM_DTYPES[w.requantize]),
        }
        enums = {"PRODUCT": f"Product::{p.product}", **flavours(w)}
        call = (
            f"tvmquant::igemm<{self.name}_sizes>(x, weights, bias, {requantize_arguments(w)}, "
            f"qinfo, {residual_argument(w)}, out, shared)"
        )
        body = settings(self.name, values, enums) + definition(
            self.name, [(name, dtype) for name, _, dtype in self.arguments], call
        )
        headers = ("ptx.cuh", "requantize.cuh", "epilogue.cuh", "loader.cuh", "igemm.cuh")
        source = with_headers(body, *headers)
        blocks_n = -(-(w.w_shape[0] // w.groups) // p.block_n)
        blocks_m = -(-rows_of(w) // p.block_m)
        return Launch(
            self.name, source, (blocks_n * blocks_m, w.groups, 1), p.threads, p.shared_bytes
        )

    def prim_func(self) -> Any:
        """PrimFunc ``(x, weights, bias, *params, qinfo, out)``."""
        return self.launch.prim_func(self.arguments)

    def _weight_bytes(self) -> int:
        w, p = self.workload, self.plan
        outputs, depth = w.w_shape[0] // w.groups, int(np.prod(w.w_shape[1:]))
        pieces = -(-outputs // p.block_n) * -(-depth // p.block_k) * w.groups
        return pieces * p.weight_bytes

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
        if plan not in set(plans(self.workload, self.arch)):
            raise ConfigError(f"{self.name} cannot have the sizes {dict(config)}")
        return replace(self, plan=plan)

    def estimate(self, config: Config) -> float:
        """Relative cost by the model."""
        plan = self.plan.with_config(config, self.workload)
        return estimate(self.workload, plan, self.arch)

    def with_residual(self, form: str) -> TensorCoreKernel:
        """The same kernel with a residual addition before the output is stored."""
        return replace(self, workload=replace(self.workload, residual=form))


def tensor_core_kernel(workload: Workload, arch: Arch) -> TensorCoreKernel | None:
    """Kernel of a layer at the default sizes; ``None`` if it has none."""
    plan = choose(workload, arch)
    return None if plan is None else TensorCoreKernel(workload, arch, plan)
