"""Bits of channels under a budget."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmquant.calibration import quantize_weight
from tvmquant.calibration.allocation import (
    WIDTHS,
    best_split,
    best_splits,
    block_size,
    channel_errors,
    channel_order,
    splits,
)


def table(channels, seed=0, spread=1.5):
    """Errors that fall with the bits, as those of real weights do."""
    rng = np.random.default_rng(seed)
    power = np.exp(spread * rng.standard_normal(channels))[:, None]
    return power * np.array([1e-4, 1e-2, 0.2]) * rng.uniform(0.8, 1.2, (channels, 3))


def test_errors_are_those_of_the_quantized_weights():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 3, 3, 5)).astype(np.float32)
    power = rng.uniform(0, 2, (3, 3, 5))
    errors = channel_errors(weight, 0, power)
    assert errors.shape == (6, 3) and np.all(np.diff(errors, axis=1) > 0)
    q, scale = quantize_weight(weight, bits=4, axis=0, estimator="mse")
    wanted = ((q * scale.reshape(-1, 1, 1, 1) - weight) ** 2 * power).sum((1, 2, 3))
    np.testing.assert_allclose(errors[:, 1], wanted, rtol=1e-4)
    turned = channel_errors(weight.reshape(6, -1).T.copy(), 1, power.reshape(-1))
    np.testing.assert_allclose(turned, errors)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), average=st.floats(2, 8))
def test_nothing_within_the_budget_is_better(seed, average):
    errors = table(6, seed)
    errors = errors[channel_order([errors])]
    found = best_split(splits(errors, 1), average)
    assert found.bits <= average + 1e-9
    assert found.bits == pytest.approx(found.widths().mean())
    index = {bits: i for i, bits in enumerate(WIDTHS)}
    costs = [
        sum(errors[c, index[b]] for c, b in enumerate(widths))
        for widths in itertools.product(WIDTHS, repeat=6)
        if np.mean(widths) <= average + 1e-9 and list(widths) == sorted(widths, reverse=True)
    ]
    assert found.error == pytest.approx(min(costs))


def test_the_published_formula_agrees_on_who_gets_more():
    # ACIQ, eq. 11: bits grow with log2 of alpha^(2/3); errors fall by four with every bit.
    alpha = np.exp(np.random.default_rng(3).standard_normal(32) * 1.5)
    errors = alpha[:, None] ** 2 * 4.0 ** -np.array(WIDTHS)
    order = channel_order([errors])
    np.testing.assert_array_equal(order, np.argsort(-alpha, kind="stable"))
    widths = best_split(splits(errors[order], 1), 4.0).widths()
    wanted = np.log2(alpha[order] ** (2 / 3))
    assert np.corrcoef(widths, wanted)[0, 1] > 0.85
    assert widths.mean() == pytest.approx(4.0, abs=0.1)


def test_uneven_channels_gain_and_even_ones_lose_nothing():
    uneven = table(64, spread=2.0)
    uneven = uneven[channel_order([uneven])]
    assert best_split(splits(uneven), 4.0).error < 0.7 * uneven[:, 1].sum()
    even = np.tile([1e-4, 1e-2, 0.2], (64, 1))
    assert best_split(splits(even), 4.0).counts == (0, 64, 0)


@pytest.mark.parametrize(("channels", "block"), [(128, 16), (64, 8), (24, 2), (1000, 8), (7, 1)])
def test_channels_of_a_width_come_in_blocks(channels, block):
    assert block_size(channels) == block
    for choice in splits(table(channels)):
        assert sum(choice.counts) == channels
        assert all(count % block == 0 for count in choice.counts)


def test_layers_that_share_channels_share_an_order():
    a, b = table(32, 1), table(32, 2)
    order = channel_order([a, b])
    assert sorted(order) == list(range(32))
    for own in (a, b):
        cost = best_split(splits(own[order], 1), 4.0).error
        assert cost <= own[:, 1].sum()
        assert cost >= best_split(splits(own[channel_order([own])], 1), 4.0).error * 0.999


@settings(max_examples=15, deadline=None)
@given(average=st.floats(2, 8), seed=st.integers(0, 20))
def test_a_shared_budget_is_kept_and_used_better(average, seed):
    tables = [table(32, seed + i) for i in range(3)]
    tables = [t[channel_order([t])] for t in tables]
    layers, sizes, energies = [splits(t) for t in tables], [100, 900, 300], [50.0, 1.0, 5.0]
    shared = best_splits(layers, sizes, energies, average)
    assert np.dot([s.bits for s in shared], sizes) <= average * sum(sizes) + 1e-5

    def loss(chosen):
        return sum(s.error / e for s, e in zip(chosen, energies))

    alone = [best_split(layer, average) for layer in layers]
    assert loss(shared) <= loss(alone) * 1.1
