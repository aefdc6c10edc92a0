"""Raising layers to 8 bits until an allowed drop is met."""

import numpy as np
import pytest
from analysis_tools import PLANTED, data, labels, network, recipe

import tvmquant
from tvmquant.analysis.candidates import with_raised
from tvmquant.analysis.goal import Goal
from tvmquant.analysis.max_drop import meet_max_drop
from tvmquant.errors import AccuracyError, InputError
from tvmquant.runtime.accuracy import top1


@pytest.fixture(scope="module")
def classified():
    model, x = network(), data(60, seed=5)
    return {"x": x, "y": labels(model, x)}


def run(max_drop, dataset, **options):
    options = {"recipe": recipe(), "calibration": data(), **options}
    return meet_max_drop(network(), max_drop, dataset, **options)


def search(max_drop, **options):
    corrected = recipe().with_corrections()
    return run(max_drop, data(12, seed=5), recipe=corrected, **options)


def bits_of(model):
    return {layer.name: layer.bits for layer in tvmquant.compile(model).layers if layer.macs}


class TestWithLabels:
    def test_the_planted_layer_is_raised_and_the_drop_is_met(self, classified):
        model, report = run(35, classified)
        assert [layer.name for layer in report.raised] == [PLANTED]
        assert report.unit == "points of top-1"
        assert report.reference == 100
        assert report.start > 35 >= report.reached
        assert report.reached == pytest.approx(100 - Goal(classified, model).value(model))
        (raised,) = report.raised
        assert raised.bits == "w4a8"
        assert raised.output_db_at_8 > raised.output_db + 5
        assert bits_of(model) == {
            "first": "w4a8",
            "middle": "w8a8",
            "third": "w4a8",
            "head": "w4a8",
        }

    def test_the_compiled_model_drops_as_reported(self, classified):
        compiled = tvmquant.compile(
            network(), calibration=data(), recipe=recipe(), max_drop=35, dataset=classified
        )
        report = compiled.max_drop_report
        measured = 100 * top1(compiled, classified["x"], classified["y"])
        assert report.reached == pytest.approx(100 - measured)
        rules = compiled.manifest.recipe["layers"]
        assert [(rule["pattern"], rule["weight_bits"]) for rule in rules] == [(PLANTED, 8)]

    def test_the_recipe_gives_the_same_network_again(self, classified):
        model, _ = run(35, classified)
        again = tvmquant.quantize(network(), calibration=data(), recipe=model.recipe)
        goal = Goal({"x": classified["x"]}, model)
        assert goal.value(again) == goal.value(model)

    def test_nothing_is_raised_without_need(self, classified):
        model, report = run(100, classified)
        assert report.raised == () and report.candidates == 1
        assert report.start == report.reached
        assert model.recipe == recipe()
        assert "no layer raised" in str(report)

    def test_what_8_bits_cannot_meet_is_an_error(self, classified):
        wrong = {**classified, "y": (classified["y"] + 1) % 5}
        with pytest.raises(AccuracyError, match="even with all layers at 8 bits"):
            meet_max_drop(*(network(400.0), 0.5, classified), recipe=recipe(), calibration=data())
        # Against labels that float does not meet either, little is lost.
        _, report = run(1, wrong)
        assert report.reached <= 1

    def test_nothing_left_to_raise_is_an_error(self, classified):
        with pytest.raises(AccuracyError, match="even with all layers at 8 bits"):
            meet_max_drop(*(network(400.0), 0.5, classified), recipe=recipe(8), calibration=data())


class TestWithoutLabels:
    def test_the_standard_is_8_bits_everywhere(self):
        x = data(12, seed=5)
        model, report = run(6, {"image": x})
        at_8 = tvmquant.quantize(
            network(),
            calibration=data(),
            recipe=with_raised(recipe(), ["first", "middle", "third", "head"]),
        )
        goal = Goal(x, model)
        assert report.unit == "dB of SQNR"
        assert report.reference == goal.value(at_8)
        assert report.reached == report.reference - goal.value(model) <= 6 < report.start
        assert PLANTED in {layer.name for layer in report.raised}

    def test_no_drop_at_all_needs_every_layer(self):
        _, report = run(0, data(4, seed=5))
        assert report.reached <= 0
        assert report.candidates > 2

    def test_a_table_names_what_was_raised(self):
        _, report = run(6, data(12, seed=5))
        cells = list(report.table().columns[0].cells)
        assert cells == [layer.name for layer in report.raised]
        assert report.to_dict()["raised"][0]["name"] == cells[0]


class TestSearch:
    """With corrections, candidates are estimated before any is quantized in full."""

    def test_few_networks_are_quantized_in_full(self):
        model, report = search(6)
        goal = Goal(data(12, seed=5), model)
        assert report.candidates <= 4 and report.estimates >= 3
        assert report.reached == report.reference - goal.value(model) <= 6 < report.start
        assert 0 < len(report.raised) < report.layers == 4

    @pytest.mark.parametrize("wrong", [-4.0, 4.0])
    def test_wrong_estimates_are_made_good_for(self, monkeypatch, wrong):
        """Too good or too bad by some dB: the result is executed in any case."""
        real = Goal.estimate
        monkeypatch.setattr(Goal, "estimate", lambda self, model: real(self, model) - wrong)
        model, report = search(6)
        goal = Goal(data(12, seed=5), model)
        assert report.reached == report.reference - goal.value(model) <= 6
        assert len(report.raised) < report.layers

    def test_progress_ends_where_it_should(self):
        seen = []
        search(6, progress=lambda *args: seen.append(args))
        steps = [args[1:] for args in seen if args[0] == "raise"]
        assert steps[0][0] == 0 and steps[-1][0] == steps[-1][1]
        assert all(done < total for done, total in steps[:-1])
        assert [done for done, _ in steps] == sorted(done for done, _ in steps)
        (last,) = {total for stage, _, total in seen if stage == "measure"}
        assert ("measure", last, last) in seen


@pytest.mark.parametrize("drop", [-1, np.nan, True, "much"])
def test_drops_that_are_none(drop):
    with pytest.raises(InputError, match="max_drop must be a number"):
        run(drop, data())


def test_what_is_missing_is_named():
    with pytest.raises(InputError, match="dataset"):
        run(1, None)
    model = tvmquant.quantize(network(), calibration=data(), recipe=recipe())
    with pytest.raises(InputError, match="float model"):
        meet_max_drop(model, 1, data())


def test_a_reader_is_read_once(classified):
    class Reader:
        def __init__(self):
            self.left = [{"image": sample[None]} for sample in data()]

        def get_next(self):
            return self.left.pop(0) if self.left else None

    _, report = run(35, classified, calibration=Reader())
    assert [layer.name for layer in report.raised] == [PLANTED]


def test_the_calibration_cache_is_used(classified, tmp_path):
    run(100, classified, calibration_cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1
