"""Bias correction from batch norms."""

from dataclasses import replace

import numpy as np
import pytest
from batch_norm_tools import pictures, residual
from networks import interpret

from tvmquant.errors import RecipeError
from tvmquant.frontend import load_model
from tvmquant.passes.annotate import annotate
from tvmquant.passes.batch_norms import find_batch_norms
from tvmquant.passes.calibrate_analytic import calibrate_analytic
from tvmquant.passes.correct_analytic import correct_analytic
from tvmquant.passes.simplify import simplify
from tvmquant.quantizer import quantize
from tvmquant.recipes import find_recipe


def prepared(bits, seed=0, granularity="per_channel"):
    _, model = residual(seed=seed)
    recipe = find_recipe("data_free", bits)
    recipe = replace(recipe, weights=replace(recipe.weights, granularity=granularity))
    imported = load_model(model).mod
    norms = find_batch_norms(imported)
    mod = annotate(simplify(imported), recipe)
    return mod, calibrate_analytic(mod, norms, recipe), norms, recipe


def mean_error(mod, other):
    feeds = [list(f.values()) for f in pictures(32, seed=5)]
    errors = [interpret(mod, f)[0] - interpret(other, f)[0] for f in feeds]
    return float(np.sum(np.mean(errors, 0) ** 2))


@pytest.mark.parametrize(("bits", "granularity"), [("w4a8", "per_tensor"), ("w2a8", "per_channel")])
def test_the_mean_error_of_unseen_pictures_gets_smaller(bits, granularity):
    before = after = 0.0
    for seed in range(3):
        mod, qdq, norms, recipe = prepared(bits, seed, granularity)
        before += mean_error(mod, qdq)
        after += mean_error(mod, correct_analytic(mod, qdq, norms, recipe))
    assert after < 0.5 * before


def test_rounding_by_effect_brings_the_output_nearer():
    before = after = 0.0
    for seed in range(3):
        mod, qdq, norms, recipe = prepared("w2a8", seed)
        assert recipe.rounds_analytically
        nearest = correct_analytic(mod, qdq, norms, replace(recipe, rounding="nearest"))
        rounded = correct_analytic(mod, qdq, norms, recipe)
        for feeds in ([*f.values()] for f in pictures(24, seed=6)):
            want = interpret(mod, feeds)[0]
            before += np.sum((interpret(nearest, feeds)[0] - want) ** 2)
            after += np.sum((interpret(rounded, feeds)[0] - want) ** 2)
    assert after < 0.8 * before


def test_statistics_are_needed():
    mod, qdq, _, recipe = prepared("w4a8")
    with pytest.raises(RecipeError, match="the model has no batch norms"):
        correct_analytic(mod, qdq, {}, recipe)


def test_with_calibration_data_as_well():
    _, model = residual()
    mod = simplify(load_model(model).mod)
    feeds = pictures(16)
    base = find_recipe("fast", "w2a8")

    def error(**changes):
        qdq = quantize(model, recipe=replace(base, **changes), calibration=feeds).mod
        return mean_error(mod, qdq)

    assert error(bias_correction="analytic") < error()


def test_layers_that_stay_in_float_keep_their_weights():
    # Weight-only: convolutions are left alone, the batch norms round what else there is.
    _, model = residual(seed=0)
    mod = quantize(model, recipe=find_recipe("weight_only", "w4a16")).mod
    float_mod = simplify(load_model(model).mod)
    feed = list(next(iter(pictures(1, seed=1))).values())
    error = interpret(mod, feed)[0] - interpret(float_mod, feed)[0]
    assert np.abs(error).max() < 0.5 * np.abs(interpret(float_mod, feed)[0]).max()
