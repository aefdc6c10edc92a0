"""Recipes by name: the pipelines of the literature and of other tools."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tvmquant.errors import RecipeError
from tvmquant.precision import HALF_BITS, parse_bits
from tvmquant.recipe import Recipe


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe at any precision.

    Attributes
    ----------
    name, summary : str
    bits : str
        Precision when none is asked for.
    make : callable
        Precision name → recipe.
    """

    name: str
    summary: str
    bits: str
    make: Callable[[str], Recipe]


def _standard(bits: str) -> Recipe:
    return replace(Recipe.for_bits(bits), equalize=True).with_corrections()


def _fast(bits: str) -> Recipe:
    recipe = Recipe.for_bits(bits)
    return replace(
        recipe,
        weights=replace(recipe.weights, estimator="minmax"),
        activations=replace(recipe.activations, estimator="minmax"),
    )


def _data_free(bits: str) -> Recipe:
    return _standard(bits).without_data()


def _aciq(bits: str) -> Recipe:
    recipe = Recipe.for_bits(bits)
    return replace(
        recipe,
        weights=replace(recipe.weights, estimator="aciq"),
        activations=replace(recipe.activations, estimator="aciq"),
        bias_correction="empirical",
        # At 8 and 2 bits there is nothing to allocate: no width is larger, or smaller.
        average_bits=4.0 if recipe.weights.bits == 4 else None,
        share_bits=recipe.weights.bits == 4,
    )


def _tensorrt(bits: str) -> Recipe:
    recipe = Recipe.for_bits(bits)
    return replace(
        recipe,
        weights=replace(recipe.weights, estimator="minmax"),
        activations=replace(recipe.activations, estimator="entropy", symmetric=True),
    )


def _fixed_point(bits: str) -> Recipe:
    recipe = Recipe.for_bits(bits)
    return replace(
        recipe,
        weights=replace(recipe.weights, estimator="fixed_point", granularity="per_tensor"),
        activations=replace(recipe.activations, estimator="fixed_point", symmetric=True),
        requantize="power_of_two",
        # Without it one scale a tensor costs a MobileNetV2 half a point at 8 bits.
        equalize=True,
    )


def _weight_only(bits: str) -> Recipe:
    recipe = Recipe.for_bits(f"w{parse_bits(bits)[0]}a16")
    return recipe.with_corrections() if recipe.weights.bits < 8 else recipe


def _dynamic(bits: str) -> Recipe:
    weight_bits, _ = parse_bits(bits)
    # One number is the weights': activations of 8 bits cost hardly more than fewer.
    recipe = Recipe.for_bits(bits if "a" in bits.lower() else f"w{weight_bits}a8")
    dynamic = replace(recipe.activations, estimator="dynamic", granularity="per_row")
    return replace(recipe, activations=dynamic)


def _float16(bits: str) -> Recipe:
    if parse_bits(bits)[0] != HALF_BITS:
        raise RecipeError(f"recipe float16 stores 16 bits a weight: give no --bits {bits} with it")
    return Recipe.for_bits(bits)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        NamedRecipe(
            "standard_ptq",
            "cross-layer equalization, least squared error, rounding by effect, bias correction",
            "w4a8",
            _standard,
        ),
        NamedRecipe("fast", "min-max ranges, rounding to nearest", "8", _fast),
        NamedRecipe(
            "data_free",
            "by the model's batch norms alone: equalization, absorption, rounding, biases (DFQ)",
            "8",
            _data_free,
        ),
        NamedRecipe(
            "aciq4", "analytic clipping, bits by channel, bias correction (ACIQ)", "4", _aciq
        ),
        NamedRecipe(
            "tensorrt8", "symmetric, least divergence for activations (TensorRT)", "8", _tensorrt
        ),
        NamedRecipe(
            "fixed_point", "power-of-two scales, one a tensor, shifts only", "8", _fixed_point
        ),
        NamedRecipe("float16", "weights stored as float16, computed in float32", "16", _float16),
        NamedRecipe("dynamic", "activations quantized at run time: needs no data", "8", _dynamic),
        NamedRecipe(
            "weight_only", "weights of matrix products only, in groups", "w4a16", _weight_only
        ),
    )
}


def find_recipe(name: str | os.PathLike[str], bits: int | str | None = None) -> Recipe:
    """A named recipe, or one from a JSON file.

    Parameters
    ----------
    name : str or path
        A key of ``RECIPES`` or the path of a file.
    bits : int or str, optional
        Precision of a named recipe; a file holds its own.

    Raises
    ------
    RecipeError
        If there is neither such a name nor such a file, or a file comes with ``bits``.
    """
    named = RECIPES.get(os.fspath(name))
    if named is not None:
        return named.make(str(bits if bits is not None else named.bits))
    if not Path(name).exists() and not Path(name).suffix:
        raise RecipeError(
            f"no recipe {os.fspath(name)!r}: {', '.join(RECIPES)} or the path of a JSON file"
        )
    if bits is not None:
        raise RecipeError(f"{os.fspath(name)} holds the bits: give no others with it")
    return Recipe.load(name)
