"""Precisions: how many bits weights and activations have, and their names."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tvmquant.errors import TargetError

BITS = (8, 4, 2, 1)
# Activations of that many bits stay float; weights then have 8, 4 or 2 bits.
FLOAT_BITS = (16, 32)
WEIGHT_ONLY_BITS = (8, 4, 2)
# Weights of that many bits are float16; activations are then float, too.
HALF_BITS = 16
# Of weights and activations that are quantized at run time.
DYNAMIC_WEIGHT_BITS = (8, 4, 2)
DYNAMIC_BITS = (8, 4)


@dataclass(frozen=True)
class LayerBits:
    """The decision for one layer."""

    weight_bits: int
    activation_bits: int
    quantize: bool = True

    @property
    def weight_only(self) -> bool:
        """Whether activations stay float."""
        return self.quantize and self.activation_bits in FLOAT_BITS

    @property
    def half(self) -> bool:
        """Whether weights are stored as float16 and everything is computed in float."""
        return self.weight_only and self.weight_bits == HALF_BITS


def parse_bits(bits: int | str) -> tuple[int, int]:
    """Weight and activation bits of a precision name: ``8`` → (8, 8), ``"w4a8"`` → (4, 8).

    ``a16`` and ``a32`` both say that activations stay float, in the type the model has.
    """
    text = str(bits).strip().lower()
    match = re.fullmatch(r"w(\d+)a(\d+)", text) or re.fullmatch(r"(\d+)", text)
    if match:
        numbers = [int(group) for group in match.groups()]
        pair = (numbers[0], numbers[-1])
        weight_only = pair[0] in (*WEIGHT_ONLY_BITS, HALF_BITS) and pair[1] in FLOAT_BITS
        if weight_only or all(number in BITS for number in pair):
            return pair
    raise TargetError(
        f"unknown precision {bits!r}: use 16, 8, 4, 2, 1 or a name such as 'w4a8' or 'w4a16'"
    )
