"""The parts of a recipe: how one kind of tensor is quantized, and what is different in a layer."""

from __future__ import annotations

from dataclasses import dataclass

from tvmquant.plain_data import is_a, one_of
from tvmquant.precision import BITS, FLOAT_BITS, HALF_BITS

GRANULARITIES = ("per_tensor", "per_channel", "per_row")
ESTIMATORS = (
    "minmax",
    "percentile",
    "mse",
    "moving_average",
    "entropy",
    "aciq",
    "cross_entropy",
    "fixed_point",
    "dynamic",
    "batch_norm",
)
# At 8 bits; below, the range is searched (``mse``). A percentile of 99.99 was never worse than
# min-max on the networks at hand and much better where activations have outliers.
WEIGHT_ESTIMATOR = "minmax"
ACTIVATION_ESTIMATOR = "percentile"


@dataclass(frozen=True)
class QuantSpec:
    """How one kind of tensor is quantized.

    Attributes
    ----------
    bits : int
        8, 4, 2 or 1; for activations also 16 or 32: they stay float. Weights of 16 bits are
        float16, with float activations.
    symmetric : bool
        Range symmetric around zero. Weights always are.
    granularity : str
        ``per_tensor`` (one scale), ``per_channel`` (one scale an output channel, weights only) or
        ``per_row`` (one scale a row of a matrix product, dynamic activations only).
    estimator : str
        Range estimator by name, see ``tvmquant.calibration``; ``dynamic`` (activations only) takes
        the range of each tensor when the network runs; ``batch_norm`` (activations only)
        needs no data, but a model that still has its batch norms.
    """

    bits: int = 8
    symmetric: bool = False
    granularity: str = "per_tensor"
    estimator: str = "minmax"

    def __post_init__(self) -> None:
        one_of("bits", self.bits, (*BITS, *FLOAT_BITS))
        is_a("symmetric", self.symmetric, bool, "true or false")
        one_of("granularity", self.granularity, GRANULARITIES)
        one_of("estimator", self.estimator, ESTIMATORS)


@dataclass(frozen=True)
class LayerRule:
    """Override for the layers whose name matches ``pattern`` (shell wildcards); later rules win.

    ``None`` keeps the recipe's value; ``quantize=False`` leaves the layer in float. Activation bits
    of 16 or 32 quantize the weights only.
    """

    pattern: str
    weight_bits: int | None = None
    activation_bits: int | None = None
    quantize: bool = True

    def __post_init__(self) -> None:
        is_a("pattern", self.pattern, str, "a text")
        is_a("quantize", self.quantize, bool, "true or false")
        if self.weight_bits is not None:
            one_of("weight_bits", self.weight_bits, (*BITS, HALF_BITS))
        if self.activation_bits is not None:
            one_of("activation_bits", self.activation_bits, (*BITS, *FLOAT_BITS))
