"""What looks wrong in a layer, in words, and what may help."""

from __future__ import annotations

from tvmquant.analysis.channels import ChannelRanges, WeightRanges
from tvmquant.analysis.report import EdgeSensitivity
from tvmquant.recipe import Recipe

# One scale serves channels whose ranges differ less than that at next to no cost.
_WIDE_WEIGHTS = 8.0
_WIDE_ACTIVATIONS = 16.0
_CLIPPED = 0.01
# An input below this SQNR deserves a word at all.
_POOR_DB = 30.0
# A range this much wider than what holds 99.9 % of the values is the work of outliers.
_OUTLIERS = 4.0


def hints_of(
    recipe: Recipe,
    weights: WeightRanges | None,
    results: ChannelRanges,
    edges: list[tuple[EdgeSensitivity, ChannelRanges]],
) -> tuple[str, ...]:
    """Hints on one layer.

    Parameters
    ----------
    recipe : Recipe
    weights : WeightRanges or None
    results : ChannelRanges
        Of the layer's result after bias and activation function.
    edges : list
        Its quantized inputs and their channels.
    """
    hints = []
    if results.broken_samples:
        hints.append(
            f"NaN or infinity in {results.broken_samples} of {results.samples} samples: check the "
            "model's preprocessing"
        )
    if results.dead:
        hints.append(f"{results.dead} of {results.channels} channels are always 0")
    if results.constant:
        hints.append(f"{results.constant} of {results.channels} channels never vary")
    one_scale = recipe.weights.granularity == "per_tensor"
    if weights is not None and one_scale and weights.spread > _WIDE_WEIGHTS:
        hints.append(
            f"weights of one channel are {weights.spread:.0f} times wider than usual and share one "
            "scale: try per_channel weights or equalize"
        )
    for edge, channels in edges:
        hints += _edge_hints(recipe, edge, channels)
    return tuple(hints)


def _edge_hints(recipe: Recipe, edge: EdgeSensitivity, channels: ChannelRanges) -> list[str]:
    hints = []
    if edge.clipped is not None and edge.clipped > _CLIPPED:
        hints.append(
            f"{edge.clipped:.1%} of {edge.name} lie outside its range: calibrate on more data, or "
            "try the estimator minmax or mse"
        )
    if edge.sqnr_db >= _POOR_DB:
        return hints
    wide = channels.spread > _WIDE_ACTIVATIONS
    if wide:
        equalize = "" if recipe.equalize else "try equalize, or "
        hints.append(
            f"a channel of {edge.name} is {channels.spread:.0f} times wider than usual: "
            f"{equalize}more bits here"
        )
    factor = _outlier_factor(edge)
    if factor > _OUTLIERS and not wide:
        hints.append(
            f"the range of {edge.name} is {factor:.0f} times wider than 99.9 % of its values: try "
            "the estimator mse or percentile"
        )
    return hints


def _outlier_factor(edge: EdgeSensitivity) -> float:
    """Width of an edge's range over that of 99.9 % of its values."""
    total = sum(edge.counts)
    if edge.low is None or not total or edge.seen_high <= edge.seen_low:
        return 1.0
    width = (edge.seen_high - edge.seen_low) / len(edge.counts)
    allowed, first, last = total * 0.0005, 0, len(edge.counts) - 1
    below = above = 0
    while below + edge.counts[first] <= allowed and first < last:
        below, first = below + edge.counts[first], first + 1
    while above + edge.counts[last] <= allowed and last > first:
        above, last = above + edge.counts[last], last - 1
    low = min(edge.seen_low + first * width, 0.0)
    high = max(edge.seen_low + (last + 1) * width, 0.0)
    return (edge.high - edge.low) / (high - low) if high > low else 1.0
