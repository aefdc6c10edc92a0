"""Second moments of layers."""

from dataclasses import replace

import numpy as np
import pytest
from correction_tools import prepared

from tvmquant.calibration.columns import columns, weight_rows
from tvmquant.calibration.moments import moments
from tvmquant.interpreter.lockstep import Lockstep


@pytest.fixture(scope="module")
def layers():
    mod, qdq, batches, _ = prepared("w4a8", 6)
    return list(Lockstep(mod, qdq, batches).layers())


def test_the_error_and_the_shift_are_those_of_the_outputs(layers):
    for layer in layers:
        data = moments(layer)
        rows = weight_rows(layer, layer.q).astype(np.float64)
        groups, outputs, _ = rows.shape
        scale = np.broadcast_to(layer.scale, (groups * outputs,)).reshape(groups, outputs, 1)
        rows = rows * scale
        got = np.concatenate(
            [
                (columns(x, layer.call) @ rows.transpose(0, 2, 1)).transpose(1, 0, 2)
                for x in layer.x_quant
            ]
        ).reshape(-1, groups * outputs)
        want = np.concatenate([y.reshape(-1, y.shape[-1]) for y in layer.y_float])
        difference = want - got
        np.testing.assert_allclose(data.shift(rows), difference.mean(0), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(
            data.error(rows).reshape(-1), difference.var(0), rtol=1e-2, atol=1e-6
        )


def test_groups_are_worked_on_in_any_number(layers, monkeypatch):
    whole = [moments(layer) for layer in layers]
    monkeypatch.setattr("tvmquant.calibration.moments._TOGETHER", 1)
    for layer, want in zip(layers, whole):
        found = moments(layer)
        assert found.count == want.count
        np.testing.assert_allclose(found.xx, want.xx, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.yx, want.yx, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.x_mean, want.x_mean, rtol=1e-6)


def test_a_sample_of_the_positions_is_nearly_as_good(layers):
    whole, part = (moments(layers[0], positions) for positions in (10**6, 300))
    assert np.abs(part.xx - whole.xx).max() < 0.35 * np.abs(whole.xx).max()
    assert not np.array_equal(part.xx, whole.xx)


def test_correlations_of_few_positions_count_little(layers):
    layer = layers[0]
    data = moments(layer)
    rows = weight_rows(layer, layer.weight_float).astype(np.float64)
    depth = rows.shape[-1]
    other = rows + np.random.default_rng(0).standard_normal(rows.shape) * 0.1
    few, many = (replace(data, count=count).shrunk(rows) for count in (1, 1000 * depth))
    power = np.einsum("gkk->gk", data.xx)[:, None]
    np.testing.assert_allclose(np.einsum("gkk->gk", few.xx)[:, None], power)
    # Of many the error is as measured; of few that of independent inputs.
    np.testing.assert_allclose(many.error(other), data.error(other), rtol=0.01)
    alone = ((other - rows) ** 2 * power).sum(-1)
    np.testing.assert_allclose(few.error(other), alone, rtol=0.2)
    assert replace(data, count=0).shrunk(rows).xx is data.xx


def test_a_layer_can_be_its_own_target(layers):
    layer = layers[0]
    rows = weight_rows(layer, layer.weight_float).astype(np.float64)
    data = moments(layer)
    own = data.with_target_of(rows)
    np.testing.assert_allclose(own.error(rows), 0, atol=1e-9)
    np.testing.assert_allclose(own.shift(rows), 0, atol=1e-9)
    other = rows * 1.1
    want = (((other - rows) @ data.xx) * (other - rows)).sum(-1)
    np.testing.assert_allclose(own.error(other), want, rtol=1e-6)
    assert np.any(data.error(rows) > 0)


@pytest.mark.parametrize("value", [1e38, -1e30, np.inf, np.nan])
def test_values_that_cannot_be_squared_are_left_out(layers, value):
    layer = layers[0]
    broken = layer.x_quant[0].copy()
    broken.flat[0] = value
    data = moments(replace(layer, x_quant=[broken, *layer.x_quant[1:]]))
    want = moments(layer)
    assert 0 < data.count < want.count
    assert np.isfinite(data.xx).all() and np.isfinite(data.yx).all()
    np.testing.assert_allclose(data.xx, want.xx, atol=0.1 * np.abs(want.xx).max())


def test_nothing_but_such_values_is_no_data(layers):
    layer = replace(layers[0], x_quant=[np.full_like(x, 1e38) for x in layers[0].x_quant])
    data = moments(layer)
    assert not data.xx.any() and not data.yx.any()
