"""Kernels that MetaSchedule found; without a trace there is none."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from tvm import s_tir, tirx

from tvmquant.schedules.emitted import EmittedKernel
from tvmquant.schedules.registry import register_rule
from tvmquant.schedules.space import Config, ConfigError
from tvmquant.schedules.tensorized import intrinsic
from tvmquant.schedules.tensorized.compute import convolution
from tvmquant.schedules.traces import replay
from tvmquant.schedules.workload import Workload
from tvmquant.targets.device import Device


@dataclass(frozen=True)
class TensorizedKernel(EmittedKernel):
    """8-bit convolution scheduled by a trace.

    Attributes
    ----------
    workload : Workload
    isa : str
    trace : str
        JSON of the schedule; empty for the unscheduled definition, which MetaSchedule starts from.
    """

    workload: Workload
    isa: str
    trace: str = ""

    label = "tensorized"

    @property
    def name(self) -> str:
        """Name of the kernel."""
        shapes = ("x".join(map(str, s)) for s in (self.workload.x_shape, self.workload.w_shape))
        return "_".join(["tensorized", *shapes, self.isa])

    @property
    def lanes(self) -> int:
        """Output channels of a block."""
        return intrinsic.lanes_of(self.isa)

    def pack(
        self, weight: np.ndarray, bias: np.ndarray, params: tuple[np.ndarray, ...]
    ) -> list[np.ndarray]:
        """``[weights, bias, multiplier]`` by blocks of output channels."""
        o, kh, kw, c = weight.shape
        step, lanes = intrinsic.STEP, self.lanes
        blocks = weight.reshape(o // lanes, lanes, kh, kw, c // step, step)
        flat = (np.ascontiguousarray(np.broadcast_to(v.reshape(-1), o)) for v in (bias, *params))
        packed = np.ascontiguousarray(blocks.transpose(0, 2, 3, 4, 1, 5), np.int8)
        return [packed, *(values.reshape(-1, lanes) for values in flat)]

    @cached_property
    def definition(self) -> tirx.PrimFunc:
        """Unscheduled, the output by blocks of channels."""
        return convolution(self.workload, self.lanes)

    @property
    def intrinsic(self) -> str:
        """Name of the tensor intrinsic, registered by now."""
        return intrinsic.register(self.isa)

    def emit(self) -> tirx.PrimFunc:
        """Make ``(x, weights, bias, multiplier, qinfo, out)``."""
        func = self.definition
        if self.trace:
            intrinsic.register(self.isa)
            func = replay(func, json.loads(self.trace))
        return _with_output(func, self.workload.out_shape, self.name)

    def configs(self) -> list[Config]:
        """None: schedules are found by MetaSchedule."""
        return []

    def with_config(self, config: Config) -> TensorizedKernel:
        """The kernel of ``{"trace": …}``; ``ConfigError`` if it does not fit."""
        if set(config) != {"trace"}:
            raise ConfigError(f"a trace is needed, got {sorted(config)}")
        kernel = replace(self, trace=json.dumps(config["trace"]))
        kernel.prim_func()
        return kernel


def _with_output(func: tirx.PrimFunc, shape: tuple[int, ...], name: str) -> tirx.PrimFunc:
    """Give the output its own shape, which is the same memory as that of the definition."""
    lanes = int(func.params[-1].shape[-1])
    sch = s_tir.Schedule(func.with_attr("global_symbol", "main"), debug_mask="none")
    sch.transform_layout(
        sch.get_sblock("out"), ("write", 0), lambda b, h, v, o, lane: (b, h, v, o * lanes + lane)
    )
    made = sch.mod["main"]
    assert tuple(int(d) for d in made.params[-1].shape) == shape
    return made.with_attr({"global_symbol": name, "tvmquant.scheduled": True, "op_pattern": 8})


@register_rule("conv2d", -10)
def tensorized(workload: Workload, device: Device) -> TensorizedKernel | None:
    """8-bit convolutions whose channels fit the intrinsic; never the default."""
    lanes = intrinsic.lanes_of(device.isa)
    w = workload
    fits = (
        lanes
        and (w.w_bits, w.x_bits, w.groups, w.requantize) == (8, 8, 1, "float")
        and w.w_shape[0] % lanes == 0
        and w.w_shape[3] % intrinsic.STEP == 0
        and (device.isa != "avx2" or w.no_saturation)
    )
    return TensorizedKernel(w, device.isa) if fits else None
