"""Integer convolutions and matrix products on Hopper's products of four warps (``wgmma``)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np

from tvmquant.reference import wrap_int32
from tvmquant.schedules.cuda.facts import facts_of
from tvmquant.schedules.cuda.geometry import (
    channel_constants,
    definition,
    flavours,
    geometry,
    integer_arguments,
    name_of,
    requantize_arguments,
    residual_argument,
)
from tvmquant.schedules.cuda.launch import Launch, program
from tvmquant.schedules.cuda.order import band_of
from tvmquant.schedules.cuda.source import settings, with_headers
from tvmquant.schedules.cuda.tiles import outputs_of, rows_of, vector_of
from tvmquant.schedules.cuda.warpgroup_packing import pack_warpgroup_weights
from tvmquant.schedules.cuda.warpgroup_plan import (
    SIZES,
    WarpgroupPlan,
    choose_warpgroup,
    estimate_warpgroup,
    known_warpgroup_plans,
    moved_registers,
    warpgroup_plans,
    warpgroup_registers,
)
from tvmquant.schedules.functions import PARAM_DTYPES
from tvmquant.schedules.emitted import FusedKernel
from tvmquant.schedules.space import Config, ConfigError
from tvmquant.schedules.workload import Workload
from tvmquant.targets.cuda import Arch

_HEADERS = (
    "ptx.cuh requantize.cuh epilogue.cuh loader.cuh igemm.cuh wgmma.cuh warpgroup.cuh".split()
)


@dataclass(frozen=True)
class WarpgroupKernel(FusedKernel):
    """One kernel; see :file:`assets/cuda/warpgroup.cuh`.

    Attributes
    ----------
    workload : Workload
        ``conv2d`` or ``matmul``.
    arch : Arch
    plan : WarpgroupPlan
    """

    workload: Workload
    arch: Arch
    plan: WarpgroupPlan

    @property
    def name(self) -> str:
        """Name of the kernel, unique for its workload and architecture."""
        return name_of(self.workload, f"wgmma_{self.arch.name}", self.plan)

    @property
    def label(self) -> str:
        """For profiles."""
        p = self.plan
        fed = " fed" if p.producers else ""
        return f"u8s8 wgmma {p.block_m}x{p.block_n}x{p.block_k} from {p.source}{fed}"

    def pack(
        self, weight: np.ndarray, bias: np.ndarray, params: tuple[np.ndarray, ...]
    ) -> list[np.ndarray]:
        """Weights in the order of the products, bias, requantize parameters of every channel."""
        total = wrap_int32(bias.astype(np.int64))
        packed = pack_warpgroup_weights(weight, self.workload.groups, self.plan)
        return [packed, *channel_constants(self.workload.w_shape[0], total, *params)]

    @property
    def arguments(self) -> list[tuple[str, tuple[int, ...], str]]:
        """Arguments of the kernel: name, shape, dtype."""
        w, p = self.workload, self.plan
        depth = math.prod(w.w_shape[1:])
        pieces = -(-outputs_of(w) // p.block_n) * -(-depth // p.block_k) * w.groups
        return integer_arguments(w, (pieces * p.weight_bytes,), "uint8")

    @cached_property
    def launch(self) -> Launch:
        """Source and launch of the kernel."""
        w, p = self.workload, self.plan
        values = {
            **geometry(w),
            **{key.upper(): getattr(p, key) for key in SIZES},
            "PRODUCERS": p.producers,
            **dict(zip(("REGISTERS_LEFT", "REGISTERS"), moved_registers(w, p))),
            "SLICES": 1,
            "BAND": band_of(w, p, self.arch, warpgroup_registers(w, p)),
            "W_BITS": p.w_bits,
            "IN_REGISTERS": int(p.source == "registers"),
            "VECTOR": vector_of(w, p),
            "STORE": math.gcd(16, outputs_of(w), p.block_n),
            "THREADS": p.threads,
            "PARAMS": len(PARAM_DTYPES[w.requantize]),
        }
        call = (
            f"tvmquant::warpgroup_gemm<{self.name}_sizes>(x, weights, bias, "
            f"{requantize_arguments(w)}, qinfo, {residual_argument(w)}, out, shared)"
        )
        body = (
            product_source(p.warp_m)
            + settings(self.name, values, {"PRODUCT": "Product::U8S8", **flavours(w)})
            + definition(self.name, [(name, dtype) for name, _, dtype in self.arguments], call)
        )
        blocks_n = -(-outputs_of(w) // p.block_n)
        blocks_m = -(-rows_of(w) // p.block_m)
        return Launch(
            self.name,
            with_headers(body, *_HEADERS),
            (blocks_n * blocks_m, w.groups, 1),
            p.threads,
            p.shared_bytes,
        )

    def emit(self) -> Any:
        """Make ``(x, weights, bias, *params, qinfo, out)``."""
        return program(self.name, (self.launch,), self.arguments)

    def configs(self) -> list[Config]:
        """All sizes worth measuring, the own ones first, then by the model's estimate."""
        found = sorted(
            warpgroup_plans(self.workload, self.arch),
            key=lambda p: estimate_warpgroup(self.workload, p, self.arch),
        )
        return [self.plan.config, *(p.config for p in found if p != self.plan)]

    def with_config(self, config: Config) -> WarpgroupKernel:
        """The same kernel at other sizes.

        Raises
        ------
        ConfigError
            If the layer cannot have them.
        """
        plan = self.plan.with_config(config)
        plan.check(self.arch)
        if plan not in known_warpgroup_plans(self.workload, self.arch):
            raise ConfigError(f"{self.name} cannot have the sizes {dict(config)}")
        return replace(self, plan=plan)

    def estimate(self, config: Config) -> float:
        """Relative cost by the model."""
        return estimate_warpgroup(self.workload, self.plan.with_config(config), self.arch)

    def facts(self, config: Config) -> dict[str, float]:
        """What a cost model should know of it."""
        plan = self.plan.with_config(config)
        needed = warpgroup_registers(self.workload, plan)
        return facts_of(self.workload, plan, self.arch, needed)


def warpgroup_kernel(workload: Workload, arch: Arch) -> WarpgroupKernel | None:
    """Kernel of a layer at the default sizes; ``None`` if it has none."""
    plan = choose_warpgroup(workload, arch)
    return None if plan is None else WarpgroupKernel(workload, arch, plan)


@cache
def product_source(columns: int) -> str:
    """CUDA text of the products of so many columns, with rows from registers or shared memory.

    It may appear several times in a file. Only the CUDA compiler sees it: assembly names every
    register, so there is no template for it.
    """
    numbers = columns // 2
    sums = ", ".join(f"%{i}" for i in range(numbers))
    outputs = ", ".join(f'"+r"(c[{i}])' for i in range(numbers))
    words = ", ".join(f"%{numbers + i}" for i in range(4))
    inputs = ", ".join(f'"r"(a[{i}])' for i in range(4))
    name = f"wgmma.mma_async.sync.aligned.m64n{columns}k32.s32.s8.u8"
    # The last operand tells to add to the sums.
    forms = (
        ("const unsigned (&a)[4]", f"{{{words}}}, %{numbers + 4}", inputs),
        ("uint64_t a", f"%{numbers}, %{numbers + 1}", '"l"(a)'),
    )
    functions = "".join(
        f"  static __device__ __forceinline__ void multiply(int (&c)[{numbers}], {rows}, "
        f"uint64_t b) {{\n"
        f'    asm volatile("{name} {{{sums}}}, {operands}, 1;"\n'
        f'                 : {outputs}\n                 : {given}, "l"(b));\n  }}\n'
        for rows, operands, given in forms
    )
    guard = f"TVMQUANT_WGMMA_{columns}"
    return (
        f"#if defined(__CUDACC__) && !defined({guard})\n#define {guard}\nnamespace tvmquant {{\n"
        f"template <>\nstruct Wgmma<{columns}> {{\n{functions}}};\n}}  // namespace tvmquant\n"
        "#endif\n"
    )
