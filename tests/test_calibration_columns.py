"""Layers as matrix products."""

import numpy as np
import pytest
from correction_tools import prepared

from tvmquant.calibration.columns import columns, weight_rows, weights_of_rows
from tvmquant.interpreter.lockstep import Lockstep


@pytest.fixture(scope="module")
def layers():
    mod, qdq, batches, _ = prepared("w4a8", 2)
    return list(Lockstep(mod, qdq, batches).layers())


def test_columns_times_rows_are_the_layer(layers):
    for layer in layers:
        part = columns(layer.x_float[0], layer.call)
        rows = weight_rows(layer, layer.weight_float)
        out = part @ rows.transpose(0, 2, 1)
        out = out.transpose(1, 0, 2).reshape(layer.y_float[0].shape)
        np.testing.assert_allclose(out, layer.y_float[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(weights_of_rows(layer, rows), layer.weight_float)


def test_some_positions_of_some_groups(layers):
    grouped = [x for x in layers if x.is_conv and int(x.call.attrs["groups"]) > 1]
    assert grouped
    for layer in layers:
        x = layer.x_float[0]
        whole = columns(x, layer.call)
        chosen = np.array([0, whole.shape[1] // 2, whole.shape[1] - 1])
        part = slice(1, 3) if layer in grouped else slice(None)
        np.testing.assert_array_equal(columns(x, layer.call, chosen, part), whole[part][:, chosen])
