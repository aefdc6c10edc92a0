"""Recipes: defaults, names of precisions, rules, JSON, complaints."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvmquant.errors import RecipeError, TargetError
from tvmquant.precision import BITS, DYNAMIC_BITS, LayerBits, parse_bits
from tvmquant.quant_spec import ESTIMATORS, LayerRule, QuantSpec
from tvmquant.recipe import REQUANTIZE, Recipe

MAYBE_BITS = st.none() | st.sampled_from(BITS)
STATIC = [name for name in ESTIMATORS if name != "dynamic"]
SPECS = st.builds(
    QuantSpec, st.sampled_from(BITS), st.booleans(), estimator=st.sampled_from(STATIC)
) | st.builds(
    QuantSpec,
    st.sampled_from(DYNAMIC_BITS),
    st.booleans(),
    granularity=st.sampled_from(["per_tensor", "per_row"]),
    estimator=st.just("dynamic"),
)
RULES = st.builds(LayerRule, st.text(max_size=5), MAYBE_BITS, MAYBE_BITS, st.booleans())


@given(
    SPECS, MAYBE_BITS, st.sampled_from(REQUANTIZE), st.floats(51, 100), st.lists(RULES, max_size=3)
)
def test_json_round_trip(activations, first_last, requantize, percentile, rules):  # fmt: skip
    recipe = Recipe(
        activations=activations,
        first_last_bits=first_last,
        requantize=requantize,
        percentile=percentile,
        layers=tuple(rules),
    )
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_files(tmp_path):
    path = tmp_path / "recipe.json"
    recipe = Recipe.for_bits("w4a8", layers=(LayerRule("head*", quantize=False),))
    recipe.save(path)
    assert Recipe.load(path) == recipe
    with pytest.raises(RecipeError, match=r"cannot read recipe .*none\.json: No such file"):
        Recipe.load(tmp_path / "none.json")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"recipe\.json is not a text file"):
        Recipe.load(path)
    path.write_text('{"bits": 4}')
    with pytest.raises(RecipeError, match=r"recipe\.json: recipe: unknown key bits; known are "):
        Recipe.load(path)


def test_missing_keys_take_their_defaults():
    assert Recipe.from_json("{}") == Recipe()
    partial = Recipe.from_json('{"weights": {"bits": 4}, "layers": [{"pattern": "a"}]}')
    assert partial.weights == QuantSpec(4, symmetric=True, granularity="per_channel")
    assert partial.layers == (LayerRule("a"),)


@pytest.mark.parametrize(
    ("bits", "pair"),
    [(8, (8, 8)), ("4", (4, 4)), (" W4A8 ", (4, 8)), ("w1a2", (1, 2)), (1, (1, 1))],
)
def test_names_of_precisions(bits, pair):
    assert parse_bits(bits) == pair
    recipe = Recipe.for_bits(bits)
    assert (recipe.weights.bits, recipe.activations.bits) == pair
    assert recipe.precision == f"w{pair[0]}a{pair[1]}"


@pytest.mark.parametrize("bits", [3, 32, 0, -8, "w8", "a8", "w4a3", "w4a8x", "", None, 8.0, "int8"])
def test_unknown_precisions(bits):
    with pytest.raises(TargetError, match=r"unknown precision .*use 16, 8, 4, 2, 1 or a name"):
        parse_bits(bits)


def test_estimators_suit_the_bits():
    high, low = Recipe.for_bits(8), Recipe.for_bits(2)
    assert (high.weights.estimator, high.activations.estimator) == ("minmax", "percentile")
    assert (low.weights.estimator, low.activations.estimator) == ("mse", "mse")


def test_bits_of_a_layer():
    recipe = Recipe.for_bits(
        4,
        layers=(
            LayerRule("block?/conv*", weight_bits=2),
            LayerRule("block1/*", activation_bits=8),
            LayerRule("block1/conv9", quantize=False),
            LayerRule("block2/*", quantize=False),
            LayerRule("block2/conv1", weight_bits=1),
        ),
    )
    assert recipe.bits_for("stem") == LayerBits(4, 4)
    assert recipe.bits_for("stem", first_or_last=True) == LayerBits(8, 8)
    assert recipe.bits_for("block1/conv3") == LayerBits(2, 8)
    assert recipe.bits_for("block1/conv3", first_or_last=True) == LayerBits(2, 8)
    assert not recipe.bits_for("block1/conv9").quantize
    # A later rule wins, also over "leave it in float".
    assert recipe.bits_for("block2/conv1") == LayerBits(1, 4)
    assert recipe.bits_for("Block1/conv3") == LayerBits(4, 4)


def test_first_and_last_never_get_fewer_bits():
    for bits, first_last, expected in ((8, 4, 8), (2, 4, 4), (2, None, 2)):
        recipe = Recipe.for_bits(bits, first_last_bits=first_last)
        found = recipe.bits_for("x", first_or_last=True)
        assert found == LayerBits(expected, expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1", "recipe is not valid JSON"),
        ("[1]", "recipe must be a JSON object"),
        ('{"weights": 4}', "weights must be a JSON object, got int"),
        ('{"weights": {"bits": 3}}', "bits must be one of 8, 4, 2, 1, 16, 32, got 3"),
        ('{"weights": {"bits": "4"}}', "bits must be one of 8, 4, 2, 1, 16, 32, got '4'"),
        ('{"activations": {"estimator": "best"}}', "estimator must be one of minmax"),
        ('{"requantize": "exact"}', "requantize must be one of float, fixed_point, power_of_two"),
        ('{"percentile": 50}', r"percentile must lie in \(50, 100\], got 50"),
        ('{"percentile": "high"}', "percentile must be a number"),
        ('{"first_last_bits": 6}', "first_last_bits must be one of"),
        ('{"layers": {"pattern": "a"}}', "layers must be a list"),
        ('{"layers": [4]}', "layers must be a JSON object, got int"),
        ('{"layers": [{"bits": 4}]}', "layers: unknown key bits"),
        ('{"layers": [{"weight_bits": 4}]}', "layers: missing key pattern$"),
        (
            '{"input_range": [1, 0]}',
            "input_range must be two finite numbers, the smaller first, got",
        ),
        ('{"input_range": [0, Infinity]}', "input_range must be two finite numbers"),
        ('{"input_range": [0, NaN]}', "input_range must be two finite numbers"),
        ('{"layers": [{"pattern": "a", "weight_bits": 5}]}', "weight_bits must be one of"),
        ('{"layers": [{"pattern": 3}]}', "pattern must be a text, got 3"),
        ('{"layers": [{"pattern": "a", "quantize": 0}]}', "quantize must be true or false"),
        ('{"weights": {"bits": true}}', "bits must be one of 8, 4, 2, 1, 16, 32, got True"),
        ('{"activations": {"bits": 4.0}}', "bits must be one of 8, 4, 2, 1, 16, 32, got 4.0"),
        ('{"activations": {"symmetric": "no"}}', "symmetric must be true or false, got 'no'"),
    ],
)
def test_complaints(text, message):
    with pytest.raises(RecipeError, match=message) as caught:
        Recipe.from_json(text)
    assert "\n" not in str(caught.value)


def test_the_file_is_plain_json():
    data = json.loads(Recipe(layers=(LayerRule("a", weight_bits=4),)).to_json())
    assert data["weights"]["bits"] == 8
    assert data["layers"] == [
        {"pattern": "a", "weight_bits": 4, "activation_bits": None, "quantize": True}
    ]


@pytest.mark.parametrize(
    ("bits", "pair"), [("w4a16", (4, 16)), ("W8A32", (8, 32)), ("w2a16", (2, 16))]
)
def test_weights_alone_can_be_quantized(bits, pair):
    assert parse_bits(bits) == pair
    recipe = Recipe.for_bits(bits)
    layer = recipe.bits_for("fc")
    assert (layer.weight_bits, layer.activation_bits) == pair
    assert layer.weight_only
    assert recipe.group_size == (None if pair[0] == 8 else 32)
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_single_layers_can_keep_float_activations():
    rule = LayerRule("head*", weight_bits=4, activation_bits=16)
    recipe = Recipe(layers=(rule, LayerRule("*float", quantize=False)))
    assert recipe.bits_for("head1").weight_only
    assert not recipe.bits_for("body").weight_only
    assert not recipe.bits_for("head_float").weight_only


@pytest.mark.parametrize("bits", ["w1a16", "w16a8", "w4a24"])
def test_unknown_precisions_of_weights_alone(bits):
    with pytest.raises(TargetError, match="unknown precision"):
        parse_bits(bits)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"weights": {"bits": 16}}', "weights of 16 bits are float16"),
        ('{"weights": {"bits": 1}, "activations": {"bits": 16}}', "need quantized activations"),
        ('{"group_size": 4}', "group_size must be at least 8 or null"),
        ('{"group_size": "all"}', "group_size must be a number of inputs or null"),
        ('{"layers": [{"pattern": "a", "weight_bits": 32}]}', "weight_bits must be one of"),
    ],
)
def test_complaints_about_weights_alone(text, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.from_json(text)


def test_one_bit_weights_of_a_layer_need_quantized_activations():
    recipe = Recipe(layers=(LayerRule("a", weight_bits=1, activation_bits=16),))
    with pytest.raises(RecipeError, match="layer a: weights of 1 bit"):
        recipe.bits_for("a")


@pytest.mark.parametrize(
    ("bits", "changes", "message"),
    [
        ("w4a8", {"average_bits": 1.5}, r"must lie in \[2, 8\]"),
        ("w4a8", {"average_bits": "4"}, "average_bits"),
        ("w4a8", {"average_bits": 4.0, "share_bits": 1}, "share_bits"),
        ("w4a16", {"average_bits": 4.0}, "activations quantized by calibration"),
        ("w4a8", {"average_bits": 3, "weights": QuantSpec(4, symmetric=True)}, "per_channel"),
    ],
)
def test_budgets_that_make_no_sense(bits, changes, message):
    with pytest.raises(RecipeError, match=message):
        Recipe(**{**Recipe.for_bits(bits).__dict__, **changes})
