"""Float activations times integer weights on tensor cores.

Tensor cores round sums of half-precision products in a way that nobody specifies. So activations
become integers of 31 bits for each unit of K, as the processors' integer kernel has them
(:mod:`tvmquant.schedules.weight_only.digits`), and products of bytes are exact: the result is
within :func:`tvmquant.reference.weight_only_bound`, and does not depend on the GPU. Bytes also
take fewer instructions to unpack than halves, and half the products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from tvmquant.schedules.cuda.facts import occupancy
from tvmquant.schedules.cuda.geometry import definition, name_of
from tvmquant.schedules.cuda.launch import Launch, program
from tvmquant.schedules.cuda.plain import Arguments, PlainKernel
from tvmquant.schedules.cuda.source import settings, with_headers
from tvmquant.schedules.cuda.weight_only_estimate import choose, cycles, plans
from tvmquant.schedules.cuda.weight_only_plan import SIZES, Layout, TensorPlan
from tvmquant.schedules.space import Config
from tvmquant.schedules.workload import Workload
from tvmquant.targets.cuda import Arch

# Smaller groups are mostly padding; smaller layers are done before a block has begun.
_SMALLEST_GROUP = 16
_FEWEST_WEIGHTS = 1 << 14
# Threads of a block that only makes digits.
_THREADS = 256


@dataclass(frozen=True)
class WeightOnlyTensorKernel(PlainKernel):
    """One kernel; see :file:`assets/cuda/weight_only_tensor.cuh`.

    Attributes
    ----------
    workload : Workload
        ``matmul_weight_only``.
    plan : TensorPlan
    """

    plan: TensorPlan

    @property
    def name(self) -> str:
        """Name of the kernel, unique for its workload and architecture."""
        return name_of(self.workload, f"tensor_{self.plan.arch.name}", self.plan)

    @property
    def label(self) -> str:
        """For profiles."""
        p = self.plan
        packed = " packed" if p.launches == 2 else ""
        split = f" split {p.splits}" if p.splits > 1 else ""
        return f"digits {p.rows}x{p.tiles * p.warps_m * 16}/{p.warps_k}{packed}{split}"

    def pack(
        self, weight: np.ndarray, bias: np.ndarray, params: tuple[np.ndarray, ...]
    ) -> list[np.ndarray]:
        """Weights in the order of the fragments, bias, scales, zero points."""
        layout = self.plan.layout
        scales = [_by_tile(p, layout) for p in params]
        return [pack_codes(weight, layout), np.ascontiguousarray(bias), *scales]

    @property
    def arguments(self) -> Arguments:
        """``x, weights, bias, scale, [zero_point,] out``."""
        w, lay = self.workload, self.plan.layout
        groups = (lay.tiles, lay.groups, 16)
        return [
            ("x", w.x_shape, "float32"),
            ("weights", (lay.tiles, lay.spans, lay.loads * 128), "int32"),
            ("bias", w.w_shape[:1], "float32"),
            ("scale", groups, "float32"),
            *([("zero_point", groups, "int8")] if w.zero_points else []),
            ("out", w.out_shape, "float32"),
        ]

    @property
    def arch(self) -> Arch:
        """Architecture."""
        return self.plan.arch

    @property
    def scratch(self) -> Arguments:
        """Memory between the launches: name, shape, dtype."""
        p, found = self.plan, []
        if p.launches == 2:
            size = p.row_blocks * p.splits * p.chunks * p.digit_bytes(p.rounds)
            found.append(("digits", (size,), "uint8"))
        if p.splits > 1:
            found.append(("parts", (p.splits, *self.workload.out_shape), "float32"))
        return found

    @cached_property
    def launches(self) -> tuple[Launch, ...]:
        """Sources and launches, in order. Each one may start while the one before still runs."""
        before = (self._digits_launch(),) if self.plan.launches == 2 else ()
        after = (self._addition_launch(),) if self.plan.splits > 1 else ()
        return (*before, self._product_launch(), *after)

    @property
    def launch(self) -> Launch:
        """The launch that makes the products."""
        return next(launch for launch in self.launches if launch.name == self.name)

    def emit(self) -> Any:
        """Make ``(x, weights, bias, scale, [zero_point,] out)``."""
        return program(self.name, self.launches, self.arguments, self.scratch)

    @property
    def _values(self) -> dict[str, int]:
        w, p, lay = self.workload, self.plan, self.plan.layout
        sizes = {key.upper(): getattr(p, key) for key in SIZES if key not in ("launches", "reach")}
        return {
            "BATCH": p.batch,
            "DEPTH": lay.depth,
            "OUTPUTS": w.w_shape[0],
            "W_BITS": lay.bits,
            "ZERO_POINTS": int(p.zero_points),
            "GROUP": lay.group,
            "GROUPS": lay.groups,
            "UNIT": lay.unit,
            "GROUP_UNITS": lay.group_units,
            "SPAN_UNITS": lay.span_units,
            "SPANS": lay.spans,
            "PART": p.part,
            **sizes,
            "PREFETCH": p.reach - 1,
            "ROUNDS": p.rounds,
            "CHUNKS": p.chunks,
            "BLOCKS": p.blocks,
            "APART": int(p.launches == 2),
            "PACK_THREADS": _THREADS,
            "PACK_BLOCKS": self._pack_blocks,
            "ADD_THREADS": _THREADS,
        }

    @property
    def _pack_blocks(self) -> int:
        p, lay = self.plan, self.plan.layout
        spans = min(p.rounds * p.warps_k, p.part)
        return -(-(-(-spans * lay.span // 128) * p.rows) // (_THREADS // 32))

    def _launch(
        self, name: str, takes: tuple[str, ...], call: str, headers: tuple[str, ...], **sizes: Any
    ) -> Launch:
        """A launch that calls the function ``call`` of ``weight_only_*.cuh``."""
        kinds = {key: dtype for key, _, dtype in [*self.arguments, *self.scratch]}
        function, pointers = call.rstrip(")").split("(")
        body = settings(name, self._values, {})
        text = f"tvmquant::{function}<{name}_sizes>({pointers})"
        body += definition(name, [(key, kinds[key]) for key in takes], text)
        source = with_headers(body, "ptx.cuh", "weight_only_digits.cuh", *headers)
        sizes = {"shared_bytes": 0, "early": self.plan.early, **sizes}
        return Launch(name, source, takes=takes, **sizes)

    def _digits_launch(self) -> Launch:
        """Makes the digits of all activations."""
        p, takes = self.plan, ("x", "digits")
        grid = (self._pack_blocks, p.chunks * p.splits, p.row_blocks)
        call = "pack_digits(x, digits)"
        return self._launch(f"{self.name}_digits", takes, call, (), grid=grid, threads=_THREADS)

    def _product_launch(self) -> Launch:
        """Blocks go through the channels; of other rows and parts of K are other blocks."""
        p = self.plan
        x, out = "digits" if p.launches == 2 else "x", "parts" if p.splits > 1 else "out"
        takes = (x, *(key for key, *_ in self.arguments[1:-1]), out)
        zero = "zero_point" if p.zero_points else "nullptr"
        return self._launch(
            self.name,
            takes,
            f"weight_only_tensor({x}, weights, bias, scale, {zero}, {out}, shared)",
            ("weight_only_sums.cuh", "weight_only_tensor.cuh"),
            grid=(p.blocks, p.row_blocks, p.splits),
            threads=p.threads,
            shared_bytes=p.shared_bytes,
            resident=p.resident,
        )

    def _addition_launch(self) -> Launch:
        """Adds the parts of K."""
        blocks = -(-math.prod(self.workload.out_shape) // _THREADS)
        return self._launch(
            f"{self.name}_add",
            ("parts", "bias", "out"),
            "add_weight_only(parts, bias, out)",
            ("weight_only_sums.cuh", "weight_only_tensor.cuh"),
            grid=(blocks, 1, 1),
            threads=_THREADS,
        )

    def configs(self) -> list[Config]:
        """All sizes worth measuring, the own ones first, then by the model's estimate.

        The second ones are the own ones that start early or not, as the own ones do not.
        """
        found = sorted(plans(self.workload, self.plan.arch), key=cycles)
        other = replace(self.plan, early=not self.plan.early)
        others = [p for p in found if p not in (self.plan, other)]
        first = [self.plan, other] if self.plan.arch.sm >= 90 else [self.plan]
        return [p.config for p in (*first, *others)]

    def with_config(self, config: Config) -> WeightOnlyTensorKernel:
        """The same kernel at other sizes.

        Raises
        ------
        ConfigError
            If the layer cannot have them.
        """
        return replace(self, plan=self.plan.with_config(config))

    def estimate(self, config: Config) -> float:
        """Relative cost by the model."""
        return cycles(self.plan.with_config(config))

    def facts(self, config: Config) -> dict[str, float]:
        """What a cost model should know of it."""
        p = self.plan.with_config(config)
        return {
            **occupancy(p.grid_blocks, p.threads, p.shared_bytes, p.registers, p.arch),
            "in_flight": float(p.flying * p.reach),
            "moved": float(p.layout.tiles * p.layout.tile_bytes * p.row_blocks + p.copied),
        }


def weight_only_tensor_kernel(workload: Workload, arch: Arch) -> WeightOnlyTensorKernel | None:
    """Kernel of a layer at the default sizes; ``None`` where the plain one is meant."""
    group = workload.group_size or workload.w_shape[1]
    small = np.prod(workload.w_shape) < _FEWEST_WEIGHTS or group < _SMALLEST_GROUP
    return None if small else any_weight_only_tensor_kernel(workload, arch)


def any_weight_only_tensor_kernel(workload: Workload, arch: Arch) -> WeightOnlyTensorKernel | None:
    """Kernel of a layer wherever it is correct: from sm_80 on."""
    plan = choose(workload, arch) if arch.sm >= 80 else None
    return None if plan is None else WeightOnlyTensorKernel(workload, plan)


def pack_codes(weight: np.ndarray, layout: Layout) -> np.ndarray:
    """Weights for :file:`weight_only_tensor.cuh`.

    Parameters
    ----------
    weight : np.ndarray
        int8 ``[N, K]``, values of ``layout.bits`` bits.
    layout : Layout

    Returns
    -------
    np.ndarray
        int32 ``[tiles, spans, words]``. The words of a span are those of ``loads`` vectors of 32
        lanes. Lane ``l`` has channels ``l // 4`` and ``l // 4 + 8`` of the tile (even and odd
        words), of a step of 32 inputs the ones from ``8 * (l % 4)`` on, four in the bytes of the
        first two words, four in the others. Steps that share a word have ``bits`` bits of every
        byte, from the lowest up. Groups are filled up to whole units with zeros.
    """
    lay = layout
    outputs, depth = weight.shape

    def filled(rows: np.ndarray, size: int) -> np.ndarray:
        return np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, size - rows.shape[-1])])

    rows = np.pad(weight, [(0, lay.tiles * 16 - outputs), (0, lay.groups * lay.group - depth)])
    rows = filled(rows.reshape(len(rows), lay.groups, lay.group), lay.group_units * lay.unit)
    rows = filled(rows.reshape(len(rows), -1), lay.spans * lay.span)
    codes = rows.view(np.uint8).astype(np.uint32) & ((1 << lay.bits) - 1)
    fields = 8 // lay.bits
    axes = codes.reshape(lay.tiles, 2, 8, lay.spans, lay.loads, fields, 4, 2, 4)
    # tile, span, vector, channel, lane of four, half of K, half of channels | field, byte
    axes = axes.transpose(0, 3, 4, 2, 6, 7, 1, 5, 8)
    shift = np.arange(fields)[:, None] * lay.bits + np.arange(4) * 8
    words = np.bitwise_or.reduce((axes << shift.astype(np.uint32)).reshape(-1, 4 * fields), axis=1)
    return words.astype("<u4").view(np.int32).reshape(lay.tiles, lay.spans, -1)


def _by_tile(values: np.ndarray, layout: Layout) -> np.ndarray:
    """``[N, groups]`` → ``[tiles, groups, 16]``, channels ``n`` and ``n + 8`` side by side."""
    padded = np.pad(values, [(0, layout.tiles * 16 - len(values)), (0, 0)])
    axes = padded.reshape(layout.tiles, 2, 8, layout.groups).transpose(0, 3, 2, 1)
    return np.ascontiguousarray(axes).reshape(layout.tiles, layout.groups, 16)
