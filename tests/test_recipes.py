"""Recipes by name."""

import json

import pytest
from click.testing import CliRunner
from networks import Net

import tvmquant
from tvmquant.cli import main
from tvmquant.errors import RecipeError, TargetError
from tvmquant.recipe import Recipe
from tvmquant.recipes import RECIPES, find_recipe


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "float16"])
@pytest.mark.parametrize("bits", [None, 8, 4, "w4a8"])
def test_each_is_valid_at_any_precision_and_survives_json(name, bits):
    recipe = find_recipe(name, bits)
    assert Recipe.from_json(recipe.to_json()) == recipe
    own = name in ("weight_only", "dynamic")
    wanted = recipe.precision if own else f"w{bits}a{bits}"
    if isinstance(bits, int):
        assert recipe.precision == wanted
        assert recipe.weights.bits == bits


def test_what_they_are_made_of():
    assert find_recipe("standard_ptq").rounding != "nearest"
    assert find_recipe("fast").activations.estimator == "minmax"
    assert find_recipe("aciq4").weights.estimator == "aciq"
    assert find_recipe("aciq4").average_bits == 4 and find_recipe("aciq4", 8).average_bits is None
    assert find_recipe("tensorrt8").activations.estimator == "entropy"
    assert find_recipe("fixed_point").requantize == "power_of_two"
    assert find_recipe("weight_only").precision == "w4a16"
    assert find_recipe("weight_only", 8).precision == "w8a16"
    assert find_recipe("dynamic").precision == "w8a8-dynamic"
    assert find_recipe("dynamic", 4).precision == "w4a8-dynamic"
    assert find_recipe("dynamic", "w4a4").precision == "w4a4-dynamic"
    assert not find_recipe("dynamic").needs_data
    assert find_recipe("float16").precision == "w16a16"


def test_files_and_mistakes(tmp_path):
    path = tmp_path / "mine.json"
    Recipe.for_bits("w4a8").save(path)
    assert find_recipe(path) == Recipe.for_bits("w4a8")
    with pytest.raises(RecipeError, match=r"mine\.json holds the bits: give no others"):
        find_recipe(path, 4)
    with pytest.raises(RecipeError, match="no recipe 'standard': standard_ptq, fast, "):
        find_recipe("standard")
    with pytest.raises(RecipeError, match=r"cannot read recipe none\.json"):
        find_recipe("none.json")
    with pytest.raises(TargetError, match="unknown precision '3'"):
        find_recipe("fast", 3)


@pytest.mark.parametrize("name", ["tensorrt8", "fixed_point", "aciq4", "standard_ptq"])
def test_models_compile_by_name(name):
    net = Net()
    y = net.op("Relu", net.conv(net.input(1, 3, 8, 8), 3, 8))
    model = net.model(net.conv(y, 8, 4))
    feeds = net.data(8)
    compiled = tvmquant.compile(model, recipe=name, calibration=feeds)
    assert compiled.precision == find_recipe(name).precision
    want = tvmquant.compile(model, calibration=feeds)(*feeds[0].values())
    got = compiled(*feeds[0].values())
    assert abs(got - want).max() < 0.5 * abs(want).max()


def test_the_command_lists_and_prints_them():
    listed = CliRunner().invoke(main, ["recipes"])
    assert listed.exit_code == 0
    assert all(name in listed.output for name in RECIPES)
    shown = CliRunner().invoke(main, ["recipes", "--json", "aciq4", "--bits", "2"])
    assert json.loads(shown.output)["weights"] == find_recipe("aciq4", 2).to_dict()["weights"]
    assert CliRunner().invoke(main, ["recipes", "--json", "none"]).exit_code == 2
    assert CliRunner().invoke(main, ["recipes", "--bits", "4"]).exit_code == 2
