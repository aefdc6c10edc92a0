"""The table of what is measured: a row a method, in the order of the white paper.

Nagel et al. 2021, "A White Paper on Neural Network Quantization": ranges of activations (table 2),
of weights (table 1), equalization (table 3), bias correction (tables 4 and 5), AdaRound (tables 6
and 7), the whole pipeline (table 8). To add a method, add a line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tvmquant.recipe import ROUNDING, Recipe
from tvmquant.recipes import RECIPES

GRID = ("w8a8", "w4a8", "w4a4", "w2a8", "w2a4")
TARGET_BITS = ("w8a8", "w4a8", "w4a4")
SECTIONS = {
    "activations": "Ranges of activations (weights per channel, least squared error, to nearest)",
    "weights": "Ranges of weights (activations: least squared error; to nearest)",
    "per tensor": "One scale a weight tensor, step by step",
    "per channel": "One scale an output channel, step by step",
    "recipes": "Recipes by name",
    "peers": "Other tools on the same calibration data",
}


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes
    ----------
    section : str
        A key of ``SECTIONS``.
    name : str
    adds : str
        What it does that the row before it does not.
    make : callable
        Precision → recipe.
    bits : tuple of str
        Precisions at which it is measured.
    data : bool
        Whether it gets calibration data; without, all draws are the same.
    """

    section: str
    name: str
    adds: str
    make: Callable[[str], Recipe]
    bits: tuple[str, ...] = GRID
    data: bool = True

    @property
    def key(self) -> str:
        """Section and name: unique."""
        return f"{self.section}/{self.name}"


def made(w: str, a: str, granularity: str = "per_channel", **changes: Any) -> Callable:
    """Recipe of two range estimators; everything else as in ``Recipe()`` unless changed."""

    def make(bits: str) -> Recipe:
        recipe = Recipe.for_bits(bits)
        return replace(
            recipe,
            weights=replace(recipe.weights, estimator=w, granularity=granularity),
            activations=replace(recipe.activations, estimator=a),
            **changes,
        )

    return make


def default(bits: str) -> Recipe:
    """What ``tvmquant.compile`` does by itself when it gets calibration data."""
    from tvmquant.quantizer import chosen_recipe

    return chosen_recipe(None, bits, True)


def averaged(overall: bool) -> Callable[[str], Recipe]:
    """The default recipe with weights of so many bits on average."""

    def make(bits: str) -> Recipe:
        recipe = default(bits)
        return replace(recipe, average_bits=float(recipe.weights.bits), share_bits=overall)

    return make


def _ranges() -> list[Method]:
    rows = []
    for name, adds in (
        ("minmax", "everything that was seen"),
        ("moving_average", "means over batches"),
        ("percentile", "99.99 % of the values"),
        ("mse", "least squared error"),
        ("entropy", "least KL divergence (TensorRT)"),
        ("aciq", "Gauss or Laplace, in closed form"),
        ("fixed_point", "powers of two (Qiu et al.)"),
        ("cross_entropy", "least cross-entropy of the logits"),
    ):
        rows.append(Method("activations", name, adds, made("mse", name), TARGET_BITS))
    for granularity in ("per_tensor", "per_channel"):
        for name, adds in (
            ("minmax", "nothing is clipped"),
            ("mse", "least squared error"),
            ("entropy", "least KL divergence"),
            ("aciq", "Gauss or Laplace, in closed form"),
            ("fixed_point", "powers of two"),
        ):
            if (granularity, name) == ("per_channel", "entropy"):
                continue  # a channel has too few weights for a histogram
            make = made(name, "mse", granularity)
            bits = ("w8a8", "w4a8", "w2a8")
            rows.append(Method("weights", f"{granularity} {name}", adds, make, bits))
    return rows


def _steps(section: str, granularity: str) -> list[Method]:
    def row(name: str, adds: str, w: str, a: str, **changes: Any) -> Method:
        return Method(section, name, adds, made(w, a, granularity, **changes))

    corrected = {"bias_correction": "empirical"}
    equalized = {"equalize": True}
    first = row("min-max", "ranges as seen, rounding to nearest", "minmax", "minmax")
    last = [
        row("+ AdaRound", "instead: weights rounded up or down, learned", "mse", "mse",
            rounding="adaround", **corrected),
        row("+ GPTQ", "instead: each weight makes good for the ones before", "mse", "mse",
            rounding="gptq", **corrected),
        row("+ CLE + AdaRound", "the white paper's pipeline", "mse", "mse",
            rounding="adaround", **corrected, **equalized),
        row("+ CLE + GPTQ", "equalization before GPTQ", "mse", "mse",
            rounding="gptq", **corrected, **equalized),
    ]  # fmt: skip
    if granularity == "per_tensor":
        last = [made_row for made_row in last if made_row.name != "+ GPTQ"]
    elif "brecq" in ROUNDING:
        blocks = made("mse", "mse", granularity, rounding="brecq", **corrected)
        bits = ("w4a4", "w2a4")
        adds = "instead: whole blocks reconstructed (needs torch)"
        last.append(Method(section, "+ BRECQ", adds, blocks, bits))
    return [
        first,
        row("+ MSE ranges", "ranges of least squared error", "mse", "mse"),
        row("+ bias correction", "the mean error goes into the bias", "mse", "mse", **corrected),
        row("+ CLE", "equalization, high biases absorbed", "mse", "mse", **corrected, **equalized),
        *last,
    ]


def _named() -> list[Method]:
    rows = [
        Method("recipes", "default", "tvmquant.compile with data", default),
        Method("recipes", "average bits, a layer", "2, 4 or 8 bits a channel, as many on average",
               averaged(False), TARGET_BITS[1:]),
        Method("recipes", "average bits, overall", "the same average over all layers",
               averaged(True), TARGET_BITS[1:]),
    ]  # fmt: skip
    known = (
        # name in the table, bits, whether it gets data
        ("standard_ptq", GRID, True),
        ("fast", GRID, True),
        ("data_free", TARGET_BITS, False),
        ("aciq4", TARGET_BITS, True),
        ("tensorrt8", TARGET_BITS, True),
        ("fixed_point", TARGET_BITS, True),
        ("dynamic", ("w8a8", "w4a8"), False),
        ("weight_only", ("w8a16", "w4a16", "w2a16"), False),
        ("float16", ("w16a16",), False),
    )
    for name, bits, data in known:
        named = RECIPES.get(name)
        if named is not None:
            rows.append(Method("recipes", name, named.summary, named.make, bits, data))
    return rows


def table() -> list[Method]:
    """All rows of tvmquant."""
    return [
        *_ranges(),
        *_steps("per tensor", "per_tensor"),
        *_steps("per channel", "per_channel"),
        *_named(),
    ]
