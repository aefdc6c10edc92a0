"""Which single layers are counted."""

from __future__ import annotations

import re

import click

from benchmarks.layer_cases import Layer

NAMES = (
    "3x3 64->64 @56",
    "3x3 64->64 @28",
    "3x3 128->128 @28",
    "3x3 256->256 @14",
    "3x3 512->512 @7",
    "3x3 64->128 @56 /2",
    "7x7 3->64 @224 /2",
    "1x1 64->128 @56 /2",
    "1x1 24->144 @56",
    "1x1 80->480 @14",
    "1x1 320->1280 @7",
    "dw 3x3 144 @56",
    "dw 5x5 240 @28",
    "matmul 1 x 1280 -> 1000",
)
_CONV = re.compile(r"(\d+)x\1 (\d+)->(\d+) @(\d+)(?: /(\d))?")
_DEPTHWISE = re.compile(r"dw (\d+)x\1 (\d+) @(\d+)(?: /(\d))?")
_MATMUL = re.compile(r"matmul (\d+) x (\d+) -> (\d+)")


def find_layer(name: str) -> Layer:
    """The layer that a name such as ``3x3 64->64 @28 /2`` or ``dw 3x3 144 @56`` describes."""
    if match := _CONV.fullmatch(name):
        kernel, c, o, size, stride = (int(group or 1) for group in match.groups())
        return Layer(name, "conv", size, size, c, o, kernel, stride)
    if match := _DEPTHWISE.fullmatch(name):
        kernel, c, size, stride = (int(group or 1) for group in match.groups())
        return Layer(name, "depthwise", size, size, c, c, kernel, stride, c)
    if match := _MATMUL.fullmatch(name):
        rows, k, o = (int(group) for group in match.groups())
        return Layer(name, "matmul", rows, 0, k, o)
    raise click.BadParameter(f"{name!r}: write it like one of {', '.join(NAMES)}")
