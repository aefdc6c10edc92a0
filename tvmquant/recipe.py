"""Recipes: what to quantize, to how many bits, and how, as plain data (JSON in and out)."""

from __future__ import annotations

import fnmatch
import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tvmquant.errors import RecipeError
from tvmquant.plain_data import build, is_a, json_object, number_range, one_of
from tvmquant.precision import BITS, FLOAT_BITS, LayerBits, parse_bits
from tvmquant.quant_spec import ACTIVATION_ESTIMATOR, WEIGHT_ESTIMATOR, LayerRule, QuantSpec
from tvmquant.recipe_checks import check_combinations, check_layer

REQUANTIZE = ("float", "fixed_point", "power_of_two")
ROUNDING = ("nearest", "adaround", "gptq", "brecq")
BIAS_CORRECTION = ("none", "empirical", "analytic")
GROUP_SIZE = 32


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the numbers of a quantized network.

    Attributes
    ----------
    weights, activations : QuantSpec
        Defaults for every layer.
    first_last_bits : int or None
        Bits (weights and input activations) of the first and last compute layers; ``None``
        treats them like all others. Layers with float activations do not count.
    requantize : str
        ``float``, ``fixed_point`` or ``power_of_two``, see ``tvmquant.reference.requantize``.
    percentile : float
        Share of values kept by the ``percentile`` estimator, in percent.
    equalize : bool
        Whether neighbouring layers share their channels' ranges before anything is quantized
        (cross-layer equalization with absorption of high biases); worth it with ``per_tensor``
        weights.
    rounding : str
        How weights are rounded: ``nearest``, or by their effect on the layer's output on
        calibration data: ``gptq`` or, below 8 bits, ``adaround``; ``brecq`` goes on from ``gptq``
        with all layers of a block together, by the block's output (needs torch). ``gptq`` with the
        estimator ``batch_norm`` and the correction ``analytic`` needs no data.
    bias_correction : str
        Whether the mean error of every output channel goes into its bias: ``none``, as measured on
        calibration data (``empirical``) or as batch norms predict it (``analytic``). ``True`` and
        ``False`` are short for ``empirical`` and ``none``.
    expand_weights : bool
        Whether kernels may expand weights in memory when the model is loaded (Winograd transforms,
        tables); the file stays packed either way.
    group_size : int or None
        In layers with float activations: consecutive inputs of an output channel that share a
        scale; ``None`` is one scale an output channel.
    average_bits : float or None
        Budget for the bits of weights: every output channel gets 2, 4 or 8 of them, such that the
        expected error is least and their average in a layer at most this; ``weights.bits`` then
        only names the precision. Layers with bits of their own (first, last, by a rule) are left
        out; depthwise and grouped layers take the nearest width for all channels.
    share_bits : bool
        Whether all layers together keep to ``average_bits``, instead of each of them.
    layers : tuple of LayerRule
        Overrides by layer name.
    input_range : tuple of float or None
        Smallest and largest value of the network's inputs, where ranges come from batch norms;
        ``None`` derives it from the first layers.
    """

    weights: QuantSpec = field(
        default_factory=lambda: QuantSpec(symmetric=True, granularity="per_channel")
    )
    activations: QuantSpec = field(
        default_factory=lambda: QuantSpec(estimator=ACTIVATION_ESTIMATOR)
    )
    first_last_bits: int | None = 8
    requantize: str = "float"
    percentile: float = 99.99
    equalize: bool = False
    rounding: str = "nearest"
    bias_correction: str | bool = "none"
    expand_weights: bool = True
    group_size: int | None = GROUP_SIZE
    average_bits: float | None = None
    share_bits: bool = False
    layers: tuple[LayerRule, ...] = ()
    input_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        one_of("requantize", self.requantize, REQUANTIZE)
        if self.first_last_bits is not None:
            one_of("first_last_bits", self.first_last_bits, BITS)
        is_a("percentile", self.percentile, int | float, "a number")
        if not 50 < self.percentile <= 100:
            raise RecipeError(f"percentile must lie in (50, 100], got {self.percentile}")
        is_a("equalize", self.equalize, bool, "true or false")
        one_of("rounding", self.rounding, ROUNDING)
        if isinstance(self.bias_correction, bool):
            object.__setattr__(self, "bias_correction", BIAS_CORRECTION[self.bias_correction])
        one_of("bias_correction", self.bias_correction, BIAS_CORRECTION)
        is_a("expand_weights", self.expand_weights, bool, "true or false")
        if self.group_size is not None:
            is_a("group_size", self.group_size, int, "a number of inputs or null")
            if isinstance(self.group_size, bool) or self.group_size < 8:
                raise RecipeError(f"group_size must be at least 8 or null, got {self.group_size}")
        is_a("share_bits", self.share_bits, bool, "true or false")
        if self.average_bits is not None:
            is_a("average_bits", self.average_bits, int | float, "a number or null")
            if not 2 <= self.average_bits <= 8:
                raise RecipeError(f"average_bits must lie in [2, 8], got {self.average_bits}")
        if self.input_range is not None:
            object.__setattr__(self, "input_range", number_range("input_range", self.input_range))
        check_combinations(self)

    @property
    def dynamic(self) -> bool:
        """Whether activations are quantized at run time, by their own range."""
        return self.activations.estimator == "dynamic"

    @classmethod
    def for_bits(cls, bits: int | str, **changes: Any) -> Recipe:
        """Recipe of a precision name: ``8``, ``4``, ``2``, ``1``, ``"w4a8"``, ``"w4a16"``.

        8-bit weights of float activations have one scale an output channel.
        """
        weight_bits, activation_bits = parse_bits(bits)
        if activation_bits in FLOAT_BITS and weight_bits == 8:
            changes = {"group_size": None, **changes}
        return cls().with_bits(weight_bits, activation_bits, **changes)

    def with_bits(self, weight_bits: int, activation_bits: int, **changes: Any) -> Recipe:
        """Copy with other default bits and the range estimators that suit them."""

        def spec(old: QuantSpec, bits: int, at_8: str) -> QuantSpec:
            if old.estimator == "dynamic":
                return replace(old, bits=bits)
            return replace(old, bits=bits, estimator=at_8 if bits == 8 else "mse")

        return replace(
            self,
            weights=spec(self.weights, weight_bits, WEIGHT_ESTIMATOR),
            activations=spec(self.activations, activation_bits, ACTIVATION_ESTIMATOR),
            **changes,
        )

    def with_corrections(self) -> Recipe:
        """Copy that rounds weights by their effect on real data and corrects biases."""
        return replace(self, rounding="gptq", bias_correction="empirical")

    def without_data(self) -> Recipe:
        """Copy that takes from batch norms what this one would learn from data."""
        return replace(
            self,
            activations=replace(self.activations, estimator="batch_norm"),
            rounding="nearest" if self.rounding == "nearest" else "gptq",
            bias_correction="none" if self.bias_correction == "none" else "analytic",
        )

    @property
    def rounds_analytically(self) -> bool:
        """Whether weights are rounded by their effect as batch norms predict it."""
        by_norms = self.activations.estimator == "batch_norm"
        return by_norms and self.rounding == "gptq" and self.bias_correction == "analytic"

    @property
    def needs_data(self) -> bool:
        """Whether ranges or corrections come from calibration data."""
        return (
            self.activations.estimator not in ("batch_norm", "dynamic")
            or (self.rounding != "nearest" and not self.rounds_analytically)
            or self.bias_correction == "empirical"
        )

    @property
    def needs_batch_norms(self) -> bool:
        """Whether ranges or corrections come from the model's batch norms."""
        return self.activations.estimator == "batch_norm" or self.bias_correction == "analytic"

    def bits_for(self, name: str, *, first_or_last: bool = False) -> LayerBits:
        """Bits of the layer ``name``."""
        weight_bits, activation_bits = self.weights.bits, self.activations.bits
        if first_or_last and self.first_last_bits is not None:
            weight_bits = max(weight_bits, self.first_last_bits)
            activation_bits = max(activation_bits, self.first_last_bits)
        decision = LayerBits(weight_bits, activation_bits)
        for rule in self.layers:
            if fnmatch.fnmatchcase(name, rule.pattern):
                decision = LayerBits(
                    rule.weight_bits or decision.weight_bits,
                    rule.activation_bits or decision.activation_bits,
                    rule.quantize,
                )
        check_layer(name, decision, self.dynamic)
        return decision

    def sets_weight_bits(self, name: str) -> bool:
        """Whether a rule sets the bits of the weights of the layer ``name``."""
        return any(
            rule.weight_bits and fnmatch.fnmatchcase(name, rule.pattern) for rule in self.layers
        )

    @property
    def precision(self) -> str:
        """Precision name, for example ``w4a8`` or ``w8a8-dynamic``."""
        suffix = "-dynamic" if self.dynamic else ""
        return f"w{self.weights.bits}a{self.activations.bits}{suffix}"

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, as in the JSON file."""
        return asdict(self)

    def to_json(self) -> str:
        """Serialise; :meth:`from_json` reads it back."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read a recipe; missing keys take their defaults, unknown ones raise ``RecipeError``."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise RecipeError(f"recipe is not valid JSON: {error}") from None
        if not isinstance(data, dict):
            raise RecipeError("recipe must be a JSON object")
        defaults = cls()
        for key in ("weights", "activations"):
            if key in data:
                given = json_object(data[key], key)
                data[key] = build(QuantSpec, {**asdict(getattr(defaults, key)), **given}, key)
        if "layers" in data:
            if not isinstance(data["layers"], list):
                raise RecipeError("layers must be a list of JSON objects")
            data["layers"] = tuple(build(LayerRule, rule, "layers") for rule in data["layers"])
        return build(cls, data, "recipe")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the recipe as JSON."""
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe file; ``RecipeError`` names the file when it is missing or wrong."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise RecipeError(f"cannot read recipe {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise RecipeError(f"recipe {path} is not a text file") from None
        try:
            return cls.from_json(text)
        except RecipeError as error:
            raise RecipeError(f"{path}: {error}") from None
