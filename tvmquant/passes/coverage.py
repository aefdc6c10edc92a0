"""What of a recipe has nothing to act on in a model: one warning each."""

from __future__ import annotations

import difflib
import fnmatch
import warnings
from collections.abc import Sequence

import tvm

from tvmquant.errors import RecipeWarning
from tvmquant.graph import Graph, name_of
from tvmquant.passes.fold_affine import is_linear
from tvmquant.recipe import Recipe

_NAMES = 3


def layer_names(mod: tvm.IRModule) -> list[str]:
    """Names of the layers with weights of a simplified graph, as rules match them."""
    return [var.name for var, value in Graph(mod).bindings if is_linear(value)]


def warn_of_rules(mod: tvm.IRModule, recipe: Recipe) -> None:
    """Warn of the rules for layers that match none.

    Parameters
    ----------
    mod : tvm.IRModule
        A simplified graph.
    recipe : Recipe
    """
    names = layer_names(mod) if recipe.layers else []
    for rule in recipe.layers:
        if not any(fnmatch.fnmatchcase(name, rule.pattern) for name in names):
            _warn(
                f"the rule for layers {rule.pattern!r} matches none: {_alike(rule.pattern, names)}"
            )


def warn_of_floats(simplified: tvm.IRModule, mod: tvm.IRModule, recipe: Recipe) -> None:
    """Warn where not one layer was quantized, although the recipe asks for it.

    Parameters
    ----------
    simplified, mod : tvm.IRModule
        The float graph, and what the recipe made of it.
    recipe : Recipe
    """
    if any((name_of(value) or "").startswith("tvmquant.") for _, value in Graph(mod).bindings):
        return
    names = layer_names(simplified)
    if not names:
        _warn("nothing is quantized: the model has no convolution and no matrix product")
    elif not any(recipe.bits_for(name).quantize for name in names):
        _warn("nothing is quantized: the rules of the recipe leave all layers in float")
    elif recipe.activations.bits > 8:
        _warn(
            f"nothing is quantized: {recipe.precision} quantizes the weights of matrix products, "
            f"the model has only convolutions ({listed(names)}); 8-bit activations quantize them"
        )
    else:
        _warn(f"nothing is quantized: none of the layers ({listed(names)}) could be")


def _alike(pattern: str, names: Sequence[str]) -> str:
    if not names:
        return "the model has no layers with weights"
    close = difflib.get_close_matches(pattern, names, _NAMES, 0.4) or names[:_NAMES]
    return f"there are {len(names)}, for example {listed(close)} (tvmquant inspect lists them)"


def listed(names: Sequence[str]) -> str:
    """The first names, for a message."""
    more = ", ..." if len(names) > _NAMES else ""
    return ", ".join(repr(name) for name in names[:_NAMES]) + more


def _warn(text: str) -> None:
    warnings.warn(text, RecipeWarning, stacklevel=5)
