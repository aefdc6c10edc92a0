"""Corrections after calibration."""

import numpy as np
import pytest
from correction_tools import network, prepared, samples
from networks import interpret, operators

import tvmquant
from tvmquant.graph import Graph
from tvmquant.ops import is_op
from tvmquant.passes.correct import correct, sample_limit, wants_corrections
from tvmquant.recipe import Recipe


def loss(mod, other, batches):
    pairs = [(interpret(mod, b)[0], interpret(other, b)[0]) for b in batches]
    return sum(np.sum((a - b) ** 2) for a, b in pairs) / sum(np.sum(a**2) for a, _ in pairs)


@pytest.mark.parametrize("rounding", ["adaround", "gptq"])
@pytest.mark.parametrize("bits", ["w4a8", "w2a8"])
def test_the_output_comes_nearer_to_the_float_one_on_unseen_data(bits, rounding):
    mod, qdq, batches, recipe = prepared(bits, 48, rounding=rounding, bias_correction=True)
    fixed = correct(mod, qdq, batches, recipe)
    unseen = samples(16, seed=9)
    assert loss(mod, fixed, unseen) < 0.6 * loss(mod, qdq, unseen)


def test_bias_correction_alone_removes_the_mean_error():
    mod, qdq, batches, recipe = prepared("w2a8", 24, bias_correction=True)
    fixed = correct(mod, qdq, batches, recipe)

    def mean_error(other):
        errors = [interpret(mod, b)[0] - interpret(other, b)[0] for b in batches]
        return np.abs(np.mean(errors, 0)).max()

    assert mean_error(fixed) < 1e-3 < mean_error(qdq)
    # A bias that is there takes the correction: one more addition for the layer without a bias.
    added = operators(fixed).count("add") - operators(qdq).count("add")
    assert added == 1


def weights(mod):
    nodes = [v for _, v in Graph(mod).bindings if is_op(v, "tvmquant.dequantize")]
    return {
        str(v.args[0].ty.shape): v.args[0].value.numpy()
        for v in nodes
        if not hasattr(v.args[0], "name")
    }


def test_eight_bit_weights_move_by_little_and_keep_their_scales():
    mod, qdq, batches, recipe = prepared("w8a8", 24, rounding="gptq", bias_correction=True)
    fixed = correct(mod, qdq, batches, recipe)
    assert weights(fixed).keys() == weights(qdq).keys()
    for name, value in weights(fixed).items():
        old = weights(qdq)[name].astype(int)
        assert 0 < np.abs(value - old).max() < 32
    scales = [
        [v.args[1].value.numpy() for _, v in Graph(m).bindings if is_op(v, "tvmquant.dequantize")]
        for m in (qdq, fixed)
    ]
    for old, new in zip(*scales, strict=True):
        np.testing.assert_array_equal(new, old)


def test_adaround_leaves_eight_bit_weights():
    mod, qdq, batches, recipe = prepared("w8a8", 4, rounding="adaround")
    fixed = correct(mod, qdq, batches, recipe)
    for name, value in weights(fixed).items():
        np.testing.assert_array_equal(value, weights(qdq)[name])


def test_progress_counts_the_layers():
    mod, qdq, batches, recipe = prepared("w4a8", 2, bias_correction=True)
    calls = []
    correct(mod, qdq, batches, recipe, lambda *call: calls.append(call))
    assert calls == [("correct", i, 5) for i in range(1, 6)]


def test_samples_are_bounded_by_memory():
    mod, _, _, _ = prepared("w4a8", 1)
    assert sample_limit(mod) == 64


def test_what_asks_for_it():
    assert not wants_corrections(Recipe())
    assert wants_corrections(Recipe(rounding="gptq")) and wants_corrections(
        Recipe(bias_correction=True)
    )


@pytest.mark.parametrize("bits", ["w4a4", pytest.param("w2a8", marks=pytest.mark.slow), "w1a8"])
def test_compile_with_data_corrects_below_eight_bits(bits):
    _, model = network()
    feeds = [{"x0": s[0]} for s in samples(24)]
    unseen = samples(32, seed=9)
    want = tvmquant.compile(model, bits=8, calibration=feeds)

    def error(**options):
        compiled = tvmquant.compile(model, **options, calibration=feeds)
        return sum(np.sum((compiled(b[0]) - want(b[0])) ** 2) for b in unseen)

    assert error(bits=bits) < error(recipe=Recipe.for_bits(bits))
    assert tvmquant.quantize(model, bits, calibration=feeds).recipe.rounding == "gptq"
    assert tvmquant.quantize(model, 8, calibration=feeds).recipe.rounding == "gptq"
    assert tvmquant.quantize(model, "w8a16", calibration=feeds).recipe.rounding == "nearest"


@pytest.mark.parametrize("rounding", ["adaround", "gptq"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e8, "all nan", "zero", "one"])
def test_bad_data_corrects_no_worse_than_clean_data(rounding, bad):
    mod, qdq, batches, recipe = prepared("w2a8", 24, rounding=rounding, bias_correction=True)
    unseen = samples(16, seed=9)
    before = loss(mod, qdq, unseen)
    if bad == "all nan":
        batches = [[np.full_like(batches[0][0], np.nan)]] * 2
    elif bad == "zero":
        batches = [[np.zeros_like(batches[0][0])]] * 2
    elif bad == "one":
        batches = batches[:1]
    else:
        batches[3][0][0, 2, 4, 4] = bad
    with np.errstate(all="ignore"):
        fixed = correct(mod, qdq, batches, recipe)
    for _, value in Graph(fixed).bindings:
        if is_op(value, "tvmquant.dequantize") and not hasattr(value.args[0], "name"):
            scale = value.args[1].value.numpy()
            assert np.isfinite(scale).all() and scale.min() > np.finfo(np.float32).tiny
    after = loss(mod, fixed, unseen)
    assert after < (1.2 if isinstance(bad, str) else 0.7) * before
