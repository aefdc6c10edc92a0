"""Two graphs side by side."""

import numpy as np
import pytest
from correction_tools import prepared

from tvmquant.interpreter import Interpreter
from tvmquant.interpreter.lockstep import Lockstep


def test_every_layer_comes_with_its_inputs_and_outputs():
    mod, qdq, batches, _ = prepared("w4a8", 3)
    seen = {}
    Interpreter(mod).run(batches[1], lambda var, _, value: seen.setdefault(var.name, value))
    arrived = {}
    Interpreter(qdq).run(batches[1], lambda var, _, value: arrived.setdefault(var, value))
    layers = list(Lockstep(mod, qdq, batches).layers())
    assert len(layers) == 5
    assert [layer.is_conv for layer in layers] == [True] * 4 + [False]
    for layer in layers:
        np.testing.assert_array_equal(layer.y_float[1], seen[layer.var.name])
        assert len(layer.x_quant) == len(layer.x_float) == 3
        source = layer.call.args[0]
        np.testing.assert_array_equal(layer.x_quant[1], arrived.get(source, batches[1][0]))
        shape = [1] * layer.q.ndim
        shape[layer.axis] = -1
        step = layer.scale.reshape(shape)
        assert np.abs(layer.q * step - layer.weight_float).max() <= step.max() * 4
        assert layer.bits == 4


def test_changes_reach_the_next_layer():
    mod, qdq, batches, _ = prepared("w4a8", 2)
    plain = [layer.x_quant for layer in Lockstep(mod, qdq, batches).layers()]
    changed = []
    for i, layer in enumerate(Lockstep(mod, qdq, batches).layers()):
        changed.append(layer.x_quant)
        if i == 1:
            layer.set_weights(np.zeros_like(layer.q), layer.scale)
        if i == 2:
            layer.set_shift(np.full(12, 100.0))
    assert all(np.array_equal(a, b) for a, b in zip(plain[1], changed[1]))
    assert not any(np.array_equal(a, b) for a, b in zip(plain[2], changed[2]))
    assert changed[3][0].min() > plain[3][0].min()


def test_graphs_that_do_not_belong_together():
    mod, _, batches, _ = prepared("w4a8", 1)
    _, other, _, _ = prepared("w4a8", 1)
    renamed = prepared("w4a8", 1)[1]
    assert list(Lockstep(mod, other, batches).layers())
    from networks import Net

    from tvmquant.frontend import load_model

    net = Net()
    alone = load_model(net.model(net.op("Relu", net.input(1, 6, 10, 10)))).mod
    with pytest.raises(ValueError, match="the float graph has no layer"):
        list(Lockstep(alone, renamed, batches).layers())
