"""What the README promises exists."""

import re
from pathlib import Path

from tvmquant.cli import main
from tvmquant.recipe import Recipe

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_set_up_is_the_two_commands():
    assert "    python -m pip install -e . && tvmquant demo\n" in README
    assert "    python -m pip install -e '.[test]' && python -m pytest\n" in README


def test_commands_and_options_exist():
    lines = re.findall(r"^    tvmquant (.*(?:\\\n.*)?)$", README, re.M)
    assert {line.split()[0] for line in lines} == set(main.commands)
    for line in lines:
        known = {name for p in main.commands[line.split()[0]].params for name in p.opts}
        assert set(re.findall(r"--[a-z-]+", line)) <= known | {"--json"}


def test_the_recipe_is_valid():
    recipe = Recipe.from_json(re.search(r"```json\n(.*?)```", README, re.S)[1])
    assert recipe.precision == "w4a8" and not recipe.bits_for("x/attention/q").quantize


def test_the_folders_exist():
    table = README.split("|---|---|\n")[-1]
    names = re.findall(r"`([a-z_]+(?:/|\.py))`", table)
    package = Path(__file__).parent.parent / "tvmquant"
    assert "runtime/" in names
    assert [name for name in names if not (package / name).exists()] == []
