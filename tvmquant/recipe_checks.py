"""What does not go together in a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvmquant.errors import RecipeError
from tvmquant.precision import (
    BITS,
    DYNAMIC_BITS,
    DYNAMIC_WEIGHT_BITS,
    FLOAT_BITS,
    HALF_BITS,
    WEIGHT_ONLY_BITS,
    LayerBits,
)

if TYPE_CHECKING:
    from tvmquant.recipe import Recipe

# Estimators that are not for weights, and what to take instead.
_NOT_FOR_WEIGHTS = {
    "cross_entropy": "is for logits, use mse",
    "batch_norm": "is for activations, use mse",
    "dynamic": "is for activations, use minmax or mse",
}


def check_combinations(recipe: Recipe) -> None:
    """Check a recipe whose values are valid one by one.

    Raises
    ------
    RecipeError
        Naming the key and what to set instead.
    """
    weights, activations = recipe.weights, recipe.activations
    if not weights.symmetric:
        raise RecipeError("weights must be symmetric: set weights.symmetric to true")
    if weights.bits not in (*BITS, HALF_BITS):
        raise RecipeError(f"weights.bits must be 16, 8, 4, 2 or 1, got {weights.bits}")
    if weights.estimator in _NOT_FOR_WEIGHTS:
        why = _NOT_FOR_WEIGHTS[weights.estimator]
        raise RecipeError(f"weights.estimator: {weights.estimator} {why}")
    if weights.granularity == "per_row":
        raise RecipeError("weights.granularity must be per_channel or per_tensor")
    _check_half("", weights.bits, activations.bits)
    if activations.bits in FLOAT_BITS and weights.bits not in (*WEIGHT_ONLY_BITS, HALF_BITS):
        raise RecipeError(
            f"weights of {weights.bits} bit need quantized activations: set activations.bits to "
            "8, 4, 2 or 1"
        )
    if recipe.average_bits is not None:
        if weights.granularity != "per_channel":
            raise RecipeError("average_bits needs weights.granularity per_channel")
        if recipe.dynamic or activations.bits in FLOAT_BITS:
            raise RecipeError("average_bits needs activations quantized by calibration")
    if recipe.dynamic:
        _check_dynamic("", weights.bits, activations.bits)
    allowed = ("per_tensor", "per_row") if recipe.dynamic else ("per_tensor",)
    if activations.granularity not in allowed:
        raise RecipeError("activations must be per_tensor: integer kernels need one scale")


def check_layer(name: str, bits: LayerBits, dynamic: bool) -> None:
    """Check the bits of the layer ``name``, in a recipe with ``dynamic`` activations or not.

    Raises
    ------
    RecipeError
        Naming the layer.
    """
    where = f"layer {name}: "
    _check_half(where, bits.weight_bits, bits.activation_bits)
    if bits.weight_only and bits.weight_bits not in (*WEIGHT_ONLY_BITS, HALF_BITS):
        raise RecipeError(f"{where}weights of {bits.weight_bits} bit need quantized activations")
    if dynamic and bits.quantize and not bits.weight_only:
        _check_dynamic(where, bits.weight_bits, bits.activation_bits)


def _check_half(where: str, weight_bits: int, activation_bits: int) -> None:
    if weight_bits == HALF_BITS and activation_bits not in FLOAT_BITS:
        raise RecipeError(
            f"{where}weights of 16 bits are float16: activations need 16 or 32 bits, got "
            f"{activation_bits}"
        )


def _check_dynamic(where: str, weight_bits: int, activation_bits: int) -> None:
    if weight_bits not in DYNAMIC_WEIGHT_BITS or activation_bits not in DYNAMIC_BITS:
        raise RecipeError(
            f"{where}dynamic quantization needs weights of 8, 4 or 2 bits and activations of 8 or "
            f"4, got w{weight_bits}a{activation_bits}"
        )
