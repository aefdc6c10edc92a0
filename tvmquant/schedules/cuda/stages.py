"""Launches of a layer on tensor cores: activations are packed, products made, parts added."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from tvmquant.schedules.cuda.estimate import registers
from tvmquant.schedules.cuda.geometry import (
    definition,
    flavours,
    geometry,
    integer_arguments,
    requantize_arguments,
    residual_argument,
)
from tvmquant.schedules.cuda.launch import Arguments, Launch
from tvmquant.schedules.cuda.order import band_of
from tvmquant.schedules.cuda.packed import layout_of
from tvmquant.schedules.cuda.plan import OPERAND_BITS, SIZES, Plan
from tvmquant.schedules.cuda.source import settings, with_headers
from tvmquant.schedules.cuda.tiles import (
    blocks_of,
    channels_of,
    outputs_of,
    part_count,
    rows_of,
    slots_of,
    vector_of,
)
from tvmquant.schedules.functions import PARAM_DTYPES
from tvmquant.schedules.workload import Workload
from tvmquant.targets.cuda import Arch

_THREADS = 256
# Channels of a block that adds parts: eight a warp.
_ADDED = 32
_PRODUCT = ("ptx.cuh", "requantize.cuh", "epilogue.cuh", "loader.cuh", "igemm.cuh")


def arguments_of(workload: Workload, plan: Plan) -> list[tuple[str, tuple[int, ...], str]]:
    """Arguments of the kernel: name, shape, dtype."""
    pieces = blocks_of(workload, plan)[1] * slots_of(workload, plan) * workload.groups
    return integer_arguments(workload, (pieces * plan.weight_bytes,), "uint8")


def scratch_of(workload: Workload, plan: Plan) -> list[tuple[str, tuple[int, ...], str]]:
    """Memory between the launches: name, shape, dtype."""
    found: list[tuple[str, tuple[int, ...], str]] = []
    if plan.packed:
        found.append(("packed", (layout_of(workload, plan).bytes,), "uint8"))
    if plan.splits > 1:
        found.append(("parts", (part_count(workload, plan),), "int32"))
    return found


def launches_of(name: str, workload: Workload, plan: Plan, arch: Arch) -> tuple[Launch, ...]:
    """All launches, in order; the one that makes the products is called ``name``."""
    product = _product(name, workload, plan, arch)
    if plan.splits > 1:
        product = replace(product, grid=(*product.grid[:2], plan.splits))
    before = (_packing(f"{name}_pack", workload, plan),) if plan.packed else ()
    after = (_addition(f"{name}_add", workload, plan),) if plan.splits > 1 else ()
    return (*before, product, *after)


def _types(workload: Workload, plan: Plan, names: Sequence[str]) -> list[tuple[str, str]]:
    memory: Arguments = [*arguments_of(workload, plan), *scratch_of(workload, plan)]
    kinds = {name: dtype for name, _, dtype in memory}
    return [(name, kinds[name]) for name in names]


def _values(workload: Workload, plan: Plan, arch: Arch) -> dict[str, int]:
    """Constants of the products. Packed activations count as bytes, of several elements each."""
    values = {**geometry(workload), **{key.upper(): getattr(plan, key) for key in SIZES}}
    if plan.packed:
        values |= layout_of(workload, plan).constants
    return {
        **values,
        "PACKED": int(plan.packed),
        "BAND": band_of(workload, plan, arch, registers(workload, plan, arch)),
        "BLOCK_K": plan.row_bytes,
        "STEP_K": plan.step * plan.element_bits // 8,
        "WIDE": int(arch.sm >= 80),
        "W_BITS": plan.w_bits * 8 // plan.element_bits,
        "VECTOR": vector_of(workload, plan),
        "STORE": math.gcd(16, outputs_of(workload), plan.block_n),
        "THREADS": plan.threads,
        "PARAMS": len(PARAM_DTYPES[workload.requantize]),
    }


def _enums(workload: Workload, plan: Plan) -> dict[str, str]:
    return {"PRODUCT": f"Product::{plan.product}", **flavours(workload)}


def _product(name: str, workload: Workload, plan: Plan, arch: Arch) -> Launch:
    w, p = workload, plan
    x = "packed" if p.packed else "x"
    if p.splits > 1:
        takes = (x, "weights", "qinfo", "parts")
        call = f"tvmquant::igemm_part<{name}_sizes>({x}, weights, qinfo, parts, shared)"
        headers = (*_PRODUCT, "split.cuh")
    else:
        takes = tuple(x if key == "x" else key for key, *_ in arguments_of(w, p))
        headers = _PRODUCT
        call = (
            f"tvmquant::igemm<{name}_sizes>({x}, weights, bias, {requantize_arguments(w)}, "
            f"qinfo, {residual_argument(w)}, out, shared)"
        )
    body = settings(name, _values(w, p, arch), _enums(w, p))
    source = with_headers(body + definition(name, _types(w, p, takes), call), *headers)
    grid = (math.prod(blocks_of(w, p)), w.groups, 1)
    return Launch(name, source, grid, p.threads, p.shared_bytes, takes)


def _packing(name: str, workload: Workload, plan: Plan) -> Launch:
    layout, channels = layout_of(workload, plan), channels_of(workload)
    parts = 8 // OPERAND_BITS[plan.product]
    read = math.gcd(16, workload.x_shape[-1], channels, 4 * parts)
    values = {
        **geometry(workload),
        "PADDED_H": layout.height,
        "PADDED_W": layout.width * layout.fold,
        "WORDS": layout.size // 4,
        "PARTS": parts,
        "READ": read if read >= 4 else 1,
        "THREADS": _THREADS,
    }
    takes = ("x", "qinfo", "packed")
    call = f"tvmquant::pack_pixels<{name}_sizes>(x, qinfo, reinterpret_cast<unsigned *>(packed))"
    body = settings(name, values, {}) + definition(name, _types(workload, plan, takes), call)
    source = with_headers(body, "ptx.cuh", "requantize.cuh", "loader.cuh", "pack.cuh")
    blocks = -(-layout_of(workload, plan).bytes // (4 * _THREADS))
    return Launch(name, source, (blocks, 1, 1), _THREADS, 0, takes)


def _addition(name: str, workload: Workload, plan: Plan) -> Launch:
    w = workload
    width = math.gcd(_ADDED, plan.block_n)
    own = replace(
        plan, block_m=16, warp_m=16, block_n=width, warp_n=8, slices=1, splits=plan.splits
    )
    values = {
        **geometry(w),
        **{key.upper(): getattr(own, key) for key in SIZES},
        "W_BITS": plan.w_bits * 8 // plan.element_bits,
        "STORE": math.gcd(16, outputs_of(w), width),
        "THREADS": own.threads,
        "PARAMS": len(PARAM_DTYPES[w.requantize]),
    }
    takes = ("parts", *(key for key, *_ in arguments_of(w, plan) if key not in ("x", "weights")))
    call = (
        f"tvmquant::add_parts<{name}_sizes>(parts, bias, {requantize_arguments(w)}, qinfo, "
        f"{residual_argument(w)}, out, shared)"
    )
    body = settings(name, values, _enums(w, plan)) + definition(name, _types(w, plan, takes), call)
    source = with_headers(body, *_PRODUCT, "split.cuh")
    grid = (-(-rows_of(w) // 16) * -(-outputs_of(w) // width), w.groups, 1)
    return Launch(name, source, grid, own.threads, 16 * (width + 16), takes)
