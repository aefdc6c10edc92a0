"""``tvmquant inspect --sensitivity`` and ``tvmquant compile --max-drop``."""

import json

import numpy as np
import onnx
import pytest
from analysis_tools import PLANTED, data, labels, network, recipe
from click.testing import CliRunner

import tvmquant
from tvmquant.cli import main


def cli(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def refused(result, *words):
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert str(word) in result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, its calibration data, a labelled data set, and a recipe."""
    folder = tmp_path_factory.mktemp("inspect")
    model, x = network(), data(40, seed=5)
    onnx.save(model, folder / "net.onnx")
    np.savez(folder / "calibration.npz", image=data())
    np.savez(folder / "labelled.npz", x=x, y=labels(model, x))
    np.savez(folder / "plain.npz", image=x[:6])
    recipe().save(folder / "recipe.json")
    return folder


@pytest.fixture
def options(folder):
    return ("--calibration", folder / "calibration.npz", "--recipe", folder / "recipe.json")


class TestSensitivity:
    def test_a_table_worst_first(self, folder, options, tmp_path):
        page = tmp_path / "report.html"
        result = cli(
            "inspect", folder / "net.onnx", "--sensitivity", *options, "--samples", 2,
            "--html", page,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        rows = [line for line in result.stdout.splitlines() if "w4a8" in line and "│" in line]
        assert PLANTED in rows[0] and len(rows) == 4
        assert "over 2 samples" in result.stdout
        assert f"report     {page}" in result.stdout
        assert PLANTED in page.read_text()

    def test_json(self, folder):
        result = cli(
            "inspect", folder / "net.onnx", "--sensitivity", "--bits", "w8a8", "--json",
            "--calibration", folder / "calibration.npz",
        )  # fmt: skip
        found = json.loads(result.stdout)
        assert (found["source"], found["precision"], found["samples"]) == ("net.onnx", "w8a8", 8)
        assert len(found["layers"]) == 4

    def test_a_compiled_model_with_its_float_model(self, folder, options, tmp_path):
        model = folder / "net.onnx"
        compiled = tvmquant.compile(
            model, calibration=folder / "calibration.npz", recipe=folder / "recipe.json"
        )
        compiled.save(tmp_path / "out")
        result = cli(
            "inspect", tmp_path / "out", "--sensitivity", "--float", model, *options[:2], "--json"
        )
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert found["executed"] and found["layers"][0]["name"] == PLANTED
        refused(cli("inspect", tmp_path / "out", "--sensitivity", *options), "--float")
        refused(
            cli("inspect", tmp_path / "out", "--sensitivity", "--float", model, *options),
            "--recipe",
        )

    def test_bad_requests(self, folder, options, tmp_path):
        model = folder / "net.onnx"
        refused(cli("inspect", model, "--sensitivity"), "--calibration")
        refused(cli("inspect", model, "--html", "r.html"), "--html", "--sensitivity")
        refused(cli("inspect", model, "--bits", "4"), "--bits", "--sensitivity")
        refused(cli("inspect", model), model)
        missing = tmp_path / "missing" / "r.html"
        refused(cli("inspect", model, "--sensitivity", *options, "--html", missing), missing)
        refused(cli("inspect", model, "--sensitivity", *options, "--float", model), "no folder")
        refused(cli("inspect", "none.onnx", "--sensitivity", *options), "none.onnx")


class TestMaxDrop:
    def compile(self, folder, out, options, *more):
        return cli("compile", folder / "net.onnx", "-o", out, *options, *more)

    def test_raised_layers_are_told_and_kept(self, folder, options, tmp_path):
        result = self.compile(
            *(folder, tmp_path / "out", options, "--max-drop", 35),
            *("--dataset", folder / "labelled.npz", "--save-recipe", tmp_path / "raised.json"),
        )
        assert result.exit_code == 0, result.output
        assert "1 of 4 layers raised to 8 bits" in result.stdout
        assert "points of top-1" in result.stdout
        manifest = tvmquant.load(tmp_path / "out").manifest
        (rule,) = manifest.recipe["layers"]
        assert (rule["pattern"], rule["weight_bits"], rule["activation_bits"]) == (PLANTED, 8, 8)
        assert tvmquant.Recipe.load(tmp_path / "raised.json").to_dict() == {
            **manifest.recipe,
            "layers": (rule,),
        }
        evaluated = cli("evaluate", tmp_path / "out", "--dataset", folder / "labelled.npz")
        assert float(evaluated.stdout.split()[1].rstrip("%")) >= 65

    def test_a_drop_that_cannot_be_met_writes_nothing(self, folder, options, tmp_path):
        result = self.compile(
            *(folder, tmp_path / "out", options, "--max-drop", 0.1),
            *("--dataset", folder / "labelled.npz"),
        )
        assert result.exit_code == 1
        assert result.stderr.startswith("error: even with all layers at 8 bits")
        assert list(tmp_path.iterdir()) == []

    def test_without_labels(self, folder, options, tmp_path):
        result = self.compile(
            *(folder, tmp_path / "out", options, "--max-drop", 100),
            *("--dataset", folder / "plain.npz"),
        )
        assert result.exit_code == 0, result.output
        assert "no layer raised" in result.stdout and "dB of SQNR" in result.stdout

    def test_bad_requests(self, folder, options, tmp_path):
        out = tmp_path / "out"
        both = "--max-drop and --dataset belong together"
        refused(self.compile(folder, out, options, "--max-drop", 1), both)
        refused(self.compile(folder, out, options, "--dataset", folder / "plain.npz"), both)
        refused(
            self.compile(folder, out, options, "--max-drop", 1, "--dataset", "none.npz"), "none.npz"
        )
        assert self.compile(folder, out, options, "--max-drop", -1).exit_code == 2
        assert not out.exists()
