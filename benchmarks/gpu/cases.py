"""What is measured, and what is only compared with the NumPy reference."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.gpu.shapes import (
    BATCHES,
    GEMMS,
    GROUP,
    WEIGHT_ONLY,
    conv_name,
    resnet50_layers,
)
from tvmquant.reference import FLAVOURS
from tvmquant.schedules.linear.addition import INTEGER_FORMS
from tvmquant.schedules.workload import Workload

# Bits of weights and activations.
PRECISIONS = {"w8a8": (8, 8), "w4a8": (4, 8), "w4a4": (4, 4), "w1a1": (1, 1)}


@dataclass(frozen=True)
class Case:
    """One workload.

    Attributes
    ----------
    part : str
        ``exact``, ``gemm`` or ``conv``.
    name : str
        Of the layer or shape; all precisions of one shape have one name.
    precision : str
    workload : Workload
    residual : str
        How another tensor is added, see :mod:`tvmquant.schedules.linear.addition`.
    extreme : bool
        Nearly all values at their limits.
    """

    part: str
    name: str
    precision: str
    workload: Workload
    residual: str = ""
    extreme: bool = False

    @property
    def key(self) -> str:
        """Name of its folder."""
        words = f"{self.part} {self.name} {self.precision} {self.residual}".split()
        return "_".join(words).replace("->", "to").replace("/", "s").replace("@", "at")


def gemms() -> Iterator[Case]:
    """Matrix products, and products with 4-bit weights and float activations."""
    for rows, depth, outputs in GEMMS:
        for precision, (w_bits, x_bits) in PRECISIONS.items():
            workload = matmul(rows, depth, outputs, w_bits=w_bits, x_bits=x_bits)
            yield Case("gemm", f"{rows}x{depth}x{outputs}", precision, workload)
    for rows, depth, outputs in WEIGHT_ONLY:
        workload = weight_only(rows, depth, outputs, group_size=GROUP)
        yield Case("gemm", f"{rows}x{depth}x{outputs}", "w4 weight-only", workload)


def convolutions() -> Iterator[Case]:
    """Those of ResNet-50."""
    for batch in BATCHES:
        for size, inputs, outputs, kernel, stride in resnet50_layers():
            name = conv_name(batch, size, inputs, outputs, kernel, stride)
            for precision in ("w8a8", "w4a8"):
                w_bits, x_bits = PRECISIONS[precision]
                shape = (batch, size, size, inputs)
                layer = conv(shape, outputs, kernel, stride, w_bits=w_bits, x_bits=x_bits)
                yield Case("conv", name, precision, layer)


def matmul(rows: int, depth: int, outputs: int, **more: Any) -> Workload:
    return Workload("matmul", (rows, depth), (outputs, depth), **more)


def weight_only(rows: int, depth: int, outputs: int, **more: Any) -> Workload:
    """A matrix product with float activations."""
    values = {"x_bits": 32, "w_bits": 4, "requantize": "float32", **more}
    return Workload("matmul_weight_only", (rows, depth), (outputs, depth), **values)


def conv(
    shape: tuple[int, ...], outputs: int, kernel: int, stride: int = 1, groups: int = 1, **more: Any
) -> Workload:
    """Padded so that a stride of one keeps the size; one channel a group is depthwise."""
    op = "depthwise_conv2d" if groups == outputs == shape[-1] else "conv2d"
    weight = (outputs, kernel, kernel, shape[-1] // groups)
    pad = (kernel // 2,) * 4
    values = {"strides": (stride, stride), "padding": pad, "dilation": (1, 1), **more}
    return Workload(op, shape, weight, groups=groups, **values)


def exact() -> Iterator[Case]:
    """Every kind of kernel, at sizes that are no multiples of anything, too."""
    base = conv((1, 7, 9, 32), 40, 3)
    for w_bits, x_bits in ((8, 8), (4, 8), (2, 8), (1, 8), (4, 4), (2, 2), (1, 2), (1, 1)):
        bits = {"w_bits": w_bits, "x_bits": x_bits}
        name = f"w{w_bits}a{x_bits}"
        yield Case("exact", "3x3", name, replace(base, **bits))
        for rows, depth, outputs in ((257, 1000, 520), (3, 2500, 136), (1, 4096, 256)):
            workload = matmul(rows, depth, outputs, **bits)
            yield Case("exact", f"{rows}x{depth}x{outputs}", name, workload)
    layers = {
        "1x1": conv((2, 5, 5, 48), 20, 1),
        "strided": conv((1, 9, 8, 16), 24, 3, 2, padding=(0, 1, 1, 0)),
        "dilated": conv((1, 9, 9, 8), 8, 3, padding=(2, 0, 2, 0), dilation=(2, 3)),
        "grouped": conv((1, 6, 5, 24), 12, 3, groups=3),
        "first": conv((2, 33, 30, 3), 16, 7, 2),
        "wide": conv((4, 28, 28, 128), 128, 3),
        "deep": conv((2, 7, 7, 512), 264, 3),
        "odd": matmul(17, 33, 9),
        "depthwise": conv((1, 9, 10, 24), 24, 3, groups=24),
        "depthwise 5x5": conv((2, 18, 17, 12), 12, 5, 2, groups=12, w_bits=4),
        "depthwise odd": conv((1, 12, 11, 5), 5, 3, groups=5, dilation=(2, 3)),
    }
    for name, workload in layers.items():
        yield Case("exact", name, f"w{workload.w_bits}a8", workload, extreme=True)
    for flavour in FLAVOURS:
        for name in ("odd", "1x1", "depthwise"):
            workload = replace(layers[name], requantize=flavour)
            yield Case("exact", f"{name} {flavour}", "w8a8", workload)
    for form, outputs in itertools.product(INTEGER_FORMS, (48, 20, 9)):
        yield Case("exact", f"add {outputs}", "w8a8", conv((1, 6, 7, 16), outputs, 3), form)
    yield Case("exact", "add depthwise", "w8a8", layers["depthwise"], "float")
    yield Case("exact", "add bits", "w1a1", matmul(3, 300, 48, x_bits=1, w_bits=1), "float")
    yield from _floating()


def _floating() -> Iterator[Case]:
    whole = {"x_bits": 32, "w_bits": 32, "requantize": "float32"}
    for workload in (
        conv((1, 9, 8, 6), 10, 3, groups=2, **whole),
        conv((1, 9, 10, 24), 24, 3, groups=24, **whole),
        matmul(70, 33, 130, **whole),
    ):
        yield Case("exact", "float", workload.op, replace(workload, op=workload.op + "_float"))
    for rows, depth, w_bits, group, zero_points in (
        (1, 1024, 4, 32, False),
        (1, 4096, 4, 128, False),
        (3, 70, 4, 32, True),
        (11, 64, 2, 0, False),
        (2, 40, 8, 16, True),
        (32, 512, 4, 128, True),
    ):
        more = {"w_bits": w_bits, "group_size": group, "zero_points": zero_points}
        workload = weight_only(rows, depth, 72, **more)
        yield Case("exact", f"weight-only {rows}x{depth} group {group}", f"w{w_bits}", workload)


PARTS = {"exact": exact, "gemm": gemms, "conv": convolutions}
