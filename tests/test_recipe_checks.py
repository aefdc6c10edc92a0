"""What does not go together in a recipe."""

import pytest

from tvmquant.errors import RecipeError
from tvmquant.quant_spec import LayerRule
from tvmquant.recipe import Recipe

DYNAMIC = '"activations": {"estimator": "dynamic"}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"weights": {"symmetric": false}}', "weights must be symmetric"),
        ('{"weights": {"bits": 32}}', "weights.bits must be 16, 8, 4, 2 or 1, got 32"),
        ('{"weights": {"bits": 16}}', "float16: activations need 16 or 32 bits, got 8"),
        ('{"weights": {"estimator": "cross_entropy"}}', "cross_entropy is for logits, use mse"),
        ('{"weights": {"estimator": "batch_norm"}}', "batch_norm is for activations, use mse"),
        ('{"weights": {"estimator": "dynamic"}}', "is for activations, use minmax or mse"),
        ('{"weights": {"granularity": "per_row"}}', "must be per_channel or per_tensor"),
        ('{"weights": {"bits": 1}, "activations": {"bits": 16}}', "need quantized activations"),
        ('{"activations": {"granularity": "per_channel"}}', "activations must be per_tensor"),
        ('{"activations": {"granularity": "per_row"}}', "activations must be per_tensor"),
        (f'{{"weights": {{"bits": 1}}, {DYNAMIC}}}', "dynamic quantization needs .* got w1a8"),
        (f'{{"average_bits": 4, {DYNAMIC}}}', "average_bits needs activations quantized by"),
        ('{"average_bits": 4, "activations": {"bits": 16}}', "average_bits needs activations"),
        ('{"average_bits": 4, "weights": {"granularity": "per_tensor"}}', "per_channel"),
    ],
)
def test_combinations(text, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.from_json(text)


@pytest.mark.parametrize(
    ("estimator", "rule", "message"),
    [
        ("mse", LayerRule("a", weight_bits=16), "layer a: weights of 16 bits are float16"),
        ("mse", LayerRule("a", 1, 16), "layer a: weights of 1 bit need quantized activations"),
        ("dynamic", LayerRule("a", activation_bits=2), "layer a: dynamic .* got w8a2"),
    ],
)
def test_layers(estimator, rule, message):
    recipe = Recipe.from_json(f'{{"activations": {{"estimator": "{estimator}"}}}}')
    recipe = Recipe(activations=recipe.activations, layers=(rule,))
    with pytest.raises(RecipeError, match=message):
        recipe.bits_for("a")
    assert recipe.bits_for("b").weight_bits == 8
