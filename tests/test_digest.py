"""Identities of graphs and data."""

import numpy as np
import pytest
from networks import Net

from tvmquant.digest import data_digest, graph_digest
from tvmquant.frontend import load_model


def module(seed=0, stride=1, name="conv"):
    net = Net(seed)
    return load_model(
        net.model(net.conv(net.input(1, 3, 6, 6), 3, 4, strides=[stride] * 2, name=name))
    ).mod


def test_graphs():
    first = graph_digest(module())
    assert first == graph_digest(module())
    others = [module(seed=1), module(stride=2), module(name="other")]
    found = {first, graph_digest(module(), "more"), *map(graph_digest, others)}
    assert len(found) == 5


def test_data():
    array = np.arange(6, dtype=np.float32)
    things = [array, array.reshape(2, 3), array.astype(np.int32), [array], {"x": array}, [array, 1]]
    assert len({data_digest(thing) for thing in things}) == len(things)
    assert data_digest(array[::2]) == data_digest(array[::2].copy())
    assert data_digest(array[:0]) and data_digest(np.float32(3)) == data_digest(np.float32(3))
    with pytest.raises(TypeError):
        data_digest(iter([array]))
