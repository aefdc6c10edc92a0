"""The kernels in which fewer bits are faster, and the rule that chooses among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from tvm import tirx

from tvmquant.schedules.bits import lookup, popcount
from tvmquant.schedules.bits.lookup import LookupNest, LookupPlan
from tvmquant.schedules.bits.popcount import PopcountNest, PopcountPlan
from tvmquant.schedules.bits.tables import Tables
from tvmquant.schedules.emitted import EmittedKernel
from tvmquant.schedules.linear.emit import emit_prim_func
from tvmquant.schedules.linear.packing import pack_outputs
from tvmquant.schedules.registry import register_rule
from tvmquant.schedules.space import Config, ConfigError
from tvmquant.schedules.winograd.cost import cycles
from tvmquant.schedules.winograd.kernel import winograd
from tvmquant.schedules.workload import Workload
from tvmquant.targets.device import Device

# Below this many channels the direct kernel is not slower, and a word of bits is not full.
_LEAST_CHANNELS = 32
# Multiplications a cycle of the direct kernel at these bits.
_DIRECT_SPEED = {"avx512_vnni": 128, "avx_vnni": 56, "avx2": 46}
# An estimate this close to the direct kernel's is not worth the risk.
_MARGIN = 0.85
# Winograd's model expects too little of itself without 512-bit vectors.
_WINOGRAD_MARGIN = 0.8


@dataclass(frozen=True)
class BitsKernel(EmittedKernel):
    """Convolution or matmul of 1- and 2-bit values with its whole epilogue.

    Attributes
    ----------
    workload : Workload
        ``conv2d`` of one group, or ``matmul``.
    plan : PopcountPlan or LookupPlan
    others : tuple
        What else the device could do, for the tuner.
    """

    workload: Workload
    plan: PopcountPlan | LookupPlan
    others: tuple[PopcountPlan | LookupPlan, ...] = ()

    @property
    def name(self) -> str:
        """Name of the kernel, unique for its workload and instructions."""
        w = self.workload
        parts = [w.op, "x".join(map(str, w.x_shape)), "x".join(map(str, w.w_shape))]
        if w.op != "matmul":
            parts.append("_".join(map(str, (*w.strides, *w.padding, *w.dilation))))
        parts += [f"w{w.w_bits}a{w.x_bits}", w.requantize, self.plan.isa.name]
        return "_".join([*parts, f"add_{w.residual}"] if w.residual else parts)

    @property
    def label(self) -> str:
        """Instruction and register tile, for profiles."""
        t = self.plan.tiling
        return f"{self.plan.isa.name} {t.rows}x{t.columns}x{len(t.vectors)}"

    @property
    def cycles(self) -> float:
        """Expected cycles of the whole layer on one core."""
        return self.plan.cost

    def configs(self) -> list[Config]:
        """The instructions worth trying, those of the model's choice first."""
        return [{"instructions": plan.isa.name} for plan in (self.plan, *self.others)]

    def with_config(self, config: Config) -> BitsKernel:
        """The same kernel with other instructions; ``ConfigError`` if there are none such."""
        everything = (self.plan, *self.others)
        for plan in everything:
            if config == {"instructions": plan.isa.name}:
                others = tuple(other for other in everything if other is not plan)
                return replace(self, plan=plan, others=others)
        raise ConfigError(f"{self.name} cannot have {dict(config)}")

    def with_residual(self, form: str) -> BitsKernel:
        """The same kernel with a residual addition in its epilogue."""
        workload = replace(self.workload, residual=form)
        return BitsKernel(workload, replace(self.plan, workload=workload))

    def pack(
        self, weight: np.ndarray, bias: np.ndarray, params: tuple[np.ndarray, ...]
    ) -> list[np.ndarray]:
        """Constants of :meth:`prim_func`: weights, bias, requantize parameters, offsets."""
        plan = self.plan
        outputs, lanes = plan.input.geometry.out_channels, plan.tiling.group_lanes
        arrays = [plan.pack(weight)]
        arrays += [pack_outputs(v, outputs, 1, lanes) for v in (plan.correct(bias), *params)]
        if plan.has_table:
            arrays.append(plan.offsets)
        return arrays

    def emit(self) -> tirx.PrimFunc:
        """Make ``(x, weights, bias, *params, [offsets], qinfo, [other], out)``."""
        nest = PopcountNest if isinstance(self.plan, PopcountPlan) else LookupNest
        return emit_prim_func(self.plan, self.name, nest)


def plans(workload: Workload, device: Device) -> Iterator[PopcountPlan | LookupPlan]:
    """All plans for a workload that the device can execute and that are exact."""
    x_bits, w_bits = workload.x_bits, workload.w_bits
    if max(x_bits, w_bits) > 2 or workload.groups != 1 or workload.x_shape[-1] < _LEAST_CHANNELS:
        return
    features = device.features
    if "avx2" not in features:
        return
    if popcount.FEATURES <= features:
        yield popcount.make_plan(workload)
    tables = [Tables(16, (32, 16), 16, x_bits, w_bits)]
    if {"avx512f", "avx512bw", "avx512vl"} <= features:
        tables = [Tables(16, (64, 32, 16), 32, x_bits, w_bits)]
        if "avx512vbmi" in features and w_bits == 2:
            tables.append(Tables(64, (64,), 32, x_bits, w_bits))
    for isa in tables:
        plan = lookup.make_plan(workload, isa)
        if plan is not None:
            yield plan


def _direct_cycles(workload: Workload, device: Device) -> float:
    out = workload.out_shape
    pixels = int(np.prod(out)) // out[-1]
    vector = 16 if device.isa == "avx512_vnni" else 8
    return workload.macs / _DIRECT_SPEED[device.isa] + 3.5 * pixels * -(-out[-1] // vector)


def any_bits(workload: Workload, device: Device) -> BitsKernel | None:
    """Kernel for 1- and 2-bit layers, whether or not it beats the direct one."""
    found = sorted(plans(workload, device), key=lambda plan: plan.cost)
    return BitsKernel(workload, found[0], tuple(found[1:])) if found else None


@register_rule("conv2d", 5, consider=any_bits)
@register_rule("matmul", 20, consider=any_bits)
def bits(workload: Workload, device: Device) -> BitsKernel | None:
    """Kernel for 1- and 2-bit layers where an estimate says that it beats the direct one."""
    kernel = any_bits(workload, device)
    if kernel is None or kernel.plan.cost > _MARGIN * _direct_cycles(workload, device):
        return None
    return kernel


@register_rule("conv2d", 20)
def bits_before_winograd(workload: Workload, device: Device) -> BitsKernel | None:
    """The same kernel where it is expected to beat Winograd's, which comes between the two rules.

    Two rules, because Winograd's kernel may be forbidden: it needs memory for its weights.
    """
    kernel = bits(workload, device)
    rival = winograd(workload, device) if kernel else None
    if rival is None:
        return kernel
    margin = 1.0 if device.isa == "avx512_vnni" else _WINOGRAD_MARGIN
    return kernel if kernel.plan.cost < margin * cycles(rival.plan) else None
