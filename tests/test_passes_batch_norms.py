"""Statistics of batch norms, and what becomes of their names."""

import numpy as np
import pytest
from batch_norm_tools import pictures, residual
from networks import Net

from tvmquant.errors import RecipeError
from tvmquant.frontend import load_model
from tvmquant.graph import Graph
from tvmquant.interpreter import Interpreter
from tvmquant.passes.batch_norms import ChannelNorm, find_batch_norms, require_batch_norms
from tvmquant.passes.equalize import equalize_norms
from tvmquant.passes.simplify import simplify


def seen(mod, feeds, names):
    """Values of the named tensors by channel, ``[values, channels]``."""
    values = {name: [] for name in names}

    def tap(var, _value, result):
        if var.name in values:
            values[var.name].append(result.reshape(-1, result.shape[-1]))

    for feed in feeds:
        Interpreter(mod).run(list(feed.values()), tap)
    return {name: np.concatenate(parts) for name, parts in values.items()}


@pytest.mark.parametrize("equalized", [False, True])
def test_they_describe_the_folded_graph(equalized):
    _, model = residual()
    imported = load_model(model).mod
    norms, mod = find_batch_norms(imported), simplify(imported)
    assert len(norms) == 5
    assert norms.keys() <= {var.name for var, _ in Graph(mod).bindings}
    if equalized:
        mod, norms = equalize_norms(mod, norms)
    # The pictures that the batch norms have seen: what they say is exact.
    for name, values in seen(mod, pictures(24), norms).items():
        scale = np.abs(values).max()
        np.testing.assert_allclose(norms[name].mean, values.mean(0), atol=2e-3 * scale)
        np.testing.assert_allclose(norms[name].std, values.std(0), atol=2e-3 * scale)


def test_a_dead_channel_has_no_spread():
    net = Net()
    y = net.conv(net.input(1, 2, 4, 4), 2, 3)
    arrays = [[2, 2, 2], [1, 1, 1], [0, 0, 0], [1, 1e-12, 0]]
    y = net.op("BatchNormalization", y, *(np.array(a, np.float32) for a in arrays), name="bn")
    (norm,) = find_batch_norms(load_model(net.model(y)).mod).values()
    np.testing.assert_allclose(norm.std, [2, 0, 0], atol=1e-3)
    np.testing.assert_array_equal(norm.mean, [1, 1, 1])


def test_scaled_and_lowered():
    norm = ChannelNorm(np.array([2.0, -1.0]), np.array([1.0, 0.5]))
    half = norm.divided(np.array([2.0, 0.5]))
    np.testing.assert_array_equal([half.mean, half.std], [[1, -2], [0.5, 1]])
    low = norm.lowered(np.array([1.0, 0.0]))
    np.testing.assert_array_equal([low.mean, low.std], [[1, -1], [1, 0.5]])


def test_none_is_an_error_that_says_what_to_do():
    net = Net()
    norms = find_batch_norms(load_model(net.model(net.conv(net.input(1, 2, 4, 4), 2, 3))).mod)
    assert norms == {}
    with pytest.raises(RecipeError, match=r"no batch norms .* export it with them .* or give"):
        require_batch_norms(norms)
