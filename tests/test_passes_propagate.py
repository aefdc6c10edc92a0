"""Distributions through a whole graph."""

import numpy as np
import pytest
from batch_norm_tools import NormNet, pictures, residual
from networks import Net

from tvmquant.calibration.spread import Spread
from tvmquant.frontend import load_model
from tvmquant.interpreter import Interpreter
from tvmquant.passes.batch_norms import ChannelNorm, find_batch_norms
from tvmquant.passes.propagate import propagate
from tvmquant.passes.simplify import simplify


def derived(model, norms=None, **options):
    """Spread of every tensor by name."""
    imported = load_model(model).mod
    found = {}
    norms = find_batch_norms(imported) if norms is None else norms
    mod = simplify(imported)
    out = propagate(
        mod, norms, lambda var, _, spread: found.__setitem__(var.name, spread), **options
    )
    return mod, found, out


def observed(mod, feeds):
    """Every tensor by name, ``[values, channels]``."""
    found = {}

    def tap(var, _value, result):
        if isinstance(result, np.ndarray) and result.ndim:
            found.setdefault(var.name, []).append(result.reshape(-1, result.shape[-1]))

    for feed in feeds:
        Interpreter(mod).run(list(feed.values()), tap)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def test_a_network_is_described_as_pictures_show_it():
    _, model = residual()
    mod, found, out = derived(model)
    seen = observed(mod, pictures(24))
    assert set(seen) <= set(found)
    # Skewed and correlated pictures are not normal and independent: within half a deviation.
    for name, spread in found.items():
        if name in seen and spread.channels == seen[name].shape[1]:
            scale = seen[name].std() + 1e-6
            np.testing.assert_allclose(spread.mean, seen[name].mean(0), atol=0.5 * scale)
    assert len(out) == 1 and next(iter(out.values())).channels == 10


def normals(x, feeds=400, shape=(1, 6, 8, 8)):
    rng = np.random.default_rng(5)
    return [{x: rng.standard_normal(shape).astype(np.float32)} for _ in range(feeds)]


CASES = {
    "hardswish": lambda net, x: net.op("HardSwish", x),
    "decomposed": lambda net, x: net.op(
        "Mul", x, net.op("Clip", net.op("Add", x, np.float32(3)), np.float32(0), np.float32(6))
    ),
    "prelu": lambda net, x: net.op(
        "PRelu", x, np.linspace(0, 0.8, 6, dtype=np.float32).reshape(6, 1, 1)
    ),
    "affine": lambda net, x: net.op(
        "Mul", x, np.linspace(-2, 2, 6, dtype=np.float32).reshape(6, 1, 1)
    ),
    "sum with itself": lambda net, x: net.op("Add", x, net.op("Relu", x)),
    "softmax": lambda net, x: net.op("Softmax", x, axis=1),
    "slices": lambda net, x: net.op(
        "Concat",
        net.op("Relu", x),
        net.op("Slice", x, np.int64([1]), np.int64([4]), np.int64([1])),
        axis=1,
    ),
    "halves": lambda net, x: net.op("Mul", *net.op("Split", x, outputs=2, axis=1, num_outputs=2)),
    "total": lambda net, x: net.op("ReduceSum", net.op("Relu", x), np.int64([1])),
}


@pytest.mark.parametrize("kind", CASES)
def test_operators_on_normal_inputs(kind):
    net = Net()
    x = net.input(1, 6, 8, 8)
    mod, found, out = derived(net.model(CASES[kind](net, net.conv(x, 6, 6, 1, group=6))), {})
    seen = observed(mod, normals(x))
    ((name, spread),) = out.items()
    values = seen[name]
    columns = spread.channels if spread.channels == values.shape[1] else 1
    values = values.reshape(-1, columns)
    np.testing.assert_allclose(spread.mean, values.mean(0), atol=0.12 * values.std() + 0.02)
    np.testing.assert_allclose(
        np.sqrt(spread.variance), values.std(0), rtol=0.15, atol=0.05 * values.std()
    )
    assert all(np.isfinite(s.points).all() for s in found.values())


def test_residual_additions_are_of_independent_tensors():
    net = NormNet()
    x = net.input(1, 3, 8, 8)
    a, b = (net.batch_norm(net.conv(x, 3, 4, bias=False), 4) for _ in range(2))
    model = net.model(net.op("Add", a, net.op("Relu", b)))
    _, found, _ = derived(model)
    norms = list(find_batch_norms(load_model(model).mod).values())
    spread = next(s for name, s in found.items() if name.startswith("add"))
    parts = [
        Spread.normal(norms[0].mean, norms[0].std),
        Spread.normal(norms[1].mean, norms[1].std, 0),
    ]
    np.testing.assert_allclose(spread.mean, sum(p.mean for p in parts), atol=0.02)
    np.testing.assert_allclose(spread.variance, sum(p.variance for p in parts), rtol=0.05)


def test_poolings_keep_the_range():
    net = NormNet()
    y = net.op("Relu", net.batch_norm(net.conv(net.input(1, 3, 8, 8), 3, 4, bias=False), 4))
    pooled = net.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    _, found, _ = derived(net.model(net.op("GlobalAveragePool", pooled)))
    relu, *poolings = (
        next(s for name, s in found.items() if name.startswith(kind))
        for kind in ("relu", "maxpool", "globalaveragepool")
    )
    for spread in poolings:
        np.testing.assert_allclose(spread.points, relu.points)


def test_channels_stay_apart_through_flattening_of_single_pixels():
    net = NormNet()
    y = net.batch_norm(net.conv(net.input(1, 3, 8, 8), 3, 4, bias=False), 4)
    y = net.op("Flatten", net.op("GlobalAveragePool", y))
    _, found, _ = derived(net.model(net.dense(y, 4, 2)))
    flat = next(s for name, s in found.items() if name.startswith("flatten"))
    assert flat.channels == 4


def test_a_declared_range_of_the_inputs():
    net = Net()
    model = net.model(net.op("Relu", net.conv(net.input(1, 3, 4, 4), 3, 2)))
    _, found, _ = derived(model, {}, input_range=(0.0, 255.0))
    assert (found["x0"].points.min(), found["x0"].points.max()) == (0, 255)
    _, found, _ = derived(model, {})
    assert (found["x0"].points.min(), found["x0"].points.max()) == (-6, 6)


def test_a_batch_norm_of_leading_channels():
    net = Net()
    y = net.op("Identity", net.input(2, 4, 6))
    model = net.model(net.op("Relu", y))
    norms = {"relu1": ChannelNorm(np.arange(4.0), np.ones(4))}
    _, found, _ = derived(model, norms)
    assert found["relu1"].channels == 1
    assert found["relu1"].mean[0] == pytest.approx(1.5, abs=0.01)


def test_rows_looked_up_by_an_input():
    net = Net()
    table = net.weight(7, 4)
    rows = net.op("Gather", table, net.input(3, 5, dtype="int64"), axis=0)
    _, _, out = derived(net.model(net.op("Relu", rows)), {})
    array = net.constants[table]
    (spread,) = out.values()
    assert spread.points.min() >= 0 and spread.points.max() <= array.max() + 1e-6
