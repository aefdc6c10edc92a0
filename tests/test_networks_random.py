"""Random small networks: whatever the graph, the compiled module equals the interpreter."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from networks import Net, build, operators

from tvmquant.quant_spec import LayerRule
from tvmquant.recipe import Recipe

BITS = st.sampled_from([8, 4, 2, 1])
FLAVOURS = st.sampled_from(["float", "fixed_point", "power_of_two"])
# Left in float before an output, LLVM may fuse a product with a sum and so round once less.
FUSED = {"multiply", "add", "subtract"}
# Activations whose float form is exact, in case one stays float before an output.
ACTIVATIONS = {"Relu": {}, "LeakyRelu": {"alpha": 0.125}, "Abs": {}, "Neg": {}}


class _Builder:
    """Grows a network from drawn decisions; ``tensors`` are ``(name, shape)``."""

    def __init__(self, draw) -> None:
        self.draw = draw
        self.net = Net(draw(st.integers(0, 3)))
        shape = (draw(st.integers(1, 2)), draw(st.sampled_from([2, 3, 4])), 6, 7)
        self.layers = []
        x = self.net.input(*shape)
        # A layer first: what reads the input itself would compute in float.
        self.tensors = [(self._conv(x, shape[1], 4, 3), (shape[0], 4, *shape[2:]))]

    def pick(self, where=lambda shape: True):
        return self.draw(st.sampled_from([t for t in self.tensors if where(t[1])]))

    def made(self, name, shape) -> None:
        self.tensors.append((name, shape))

    def step(self) -> None:
        getattr(self, self.draw(st.sampled_from(STEPS)))()

    def conv(self) -> None:
        x, (n, c, h, w) = self.pick()
        o = self.draw(st.sampled_from([3, 4, 8]))
        self.made(self._conv(x, c, o, self.draw(st.sampled_from([1, 3]))), (n, o, h, w))

    def depthwise(self) -> None:
        x, shape = self.pick()
        self.made(self._conv(x, shape[1], shape[1], 3, group=shape[1]), shape)

    def _conv(self, x, c, o, k, **attrs):
        name = f"layer{len(self.layers)}"
        self.layers.append(name)
        return self.net.conv(x, c, o, k, bias=self.draw(st.booleans()), name=name, **attrs)

    def batch_norm(self) -> None:
        x, shape = self.pick()
        scale, shift, mean = (self.net.weight(shape[1]) for _ in range(3))
        var = np.abs(self.net.rng.standard_normal(shape[1]).astype(np.float32)) + 0.5
        y = self._conv(x, shape[1], shape[1], 1)
        self.made(self.net.op("BatchNormalization", y, scale, shift, mean, var), shape)

    def learned_scale(self) -> None:
        x, shape = self.pick()
        self.made(self.net.op("Mul", x, self.net.weight(shape[1], 1, 1)), shape)

    def activation(self) -> None:
        kind = self.draw(st.sampled_from(sorted(ACTIVATIONS)))
        x, shape = self.pick()
        self.made(self.net.op(kind, x, **ACTIVATIONS[kind]), shape)

    def binary(self) -> None:
        a, shape = self.pick()
        b, other = self.pick(lambda s: s[0] == shape[0] and s[2:] == shape[2:])
        if other != shape:
            b = self._conv(b, other[1], shape[1], 1)
        self.made(self.net.op(self.draw(st.sampled_from(["Add", "Sub", "Mul"])), a, b), shape)

    def concat(self) -> None:
        a, (n, c, h, w) = self.pick()
        b, other = self.pick(lambda s: s[2:] == (h, w))
        self.made(self.net.op("Concat", a, b, axis=1), (n, c + other[1], h, w))

    def max_pool(self) -> None:
        x, (n, c, h, w) = self.pick()
        y = self.net.op("MaxPool", x, kernel_shape=[3, 2], strides=[1, 1], pads=[1, 0, 1, 1])
        self.made(y, (n, c, h, w))

    def average_pool(self) -> None:
        x, shape = self.pick()
        y = self.net.op("AveragePool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
        self.made(y, shape)

    def gate(self) -> None:
        x, shape = self.pick()
        pooled = self.net.op("GlobalAveragePool", x)
        gate = self.net.op("Relu", self._conv(pooled, shape[1], shape[1], 1))
        self.made(self.net.op("Mul", x, gate), shape)

    def split(self) -> None:
        x, (n, c, h, w) = self.pick(lambda s: s[1] > 1)
        sizes = np.array([c - 1, 1])
        parts = self.net.op("Split", x, sizes, outputs=2, axis=1)
        for part, size in zip(parts, sizes):
            self.made(part, (n, int(size), h, w))

    def slice(self) -> None:
        x, (n, c, h, w) = self.pick(lambda s: s[2] > 3)
        y = self.net.op("Slice", x, np.array([1]), np.array([h]), np.array([2]))
        self.made(y, (n, c, h - 1, w))

    def transpose(self) -> None:
        x, (n, c, h, w) = self.pick()
        self.made(self.net.op("Transpose", x, perm=[0, 1, 3, 2]), (n, c, w, h))

    def dense(self) -> None:
        """Matmul over the last axis (a 4-D input), the bias a separate addition."""
        x, (n, c, h, w) = self.pick()
        self.layers.append(f"layer{len(self.layers)}")
        self.made(self.net.dense(x, w, 6, name=self.layers[-1]), (n, c, h, 6))


STEPS = [name for name in vars(_Builder) if name[0] != "_" and name not in ("pick", "made", "step")]


@st.composite
def networks(draw):
    builder = _Builder(draw)
    for _ in range(draw(st.integers(3, 7))):
        builder.step()
    x, shape = builder.tensors[-1]
    builder.made(builder._conv(x, shape[1], 4, 3), (shape[0], 4, *shape[2:]))
    names = [name for name, _ in builder.tensors]
    extra = draw(st.lists(st.sampled_from(names), max_size=2, unique=True))
    rules = tuple(
        LayerRule(name, draw(BITS), draw(BITS))
        for name in draw(st.lists(st.sampled_from(builder.layers), max_size=3, unique=True))
    )
    return builder.net, [*extra, names[-1]], rules


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # Every step of shrinking compiles a network.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(networks(), BITS, FLAVOURS, st.sampled_from([None, 8]))
def test_compiled_equals_interpreter(made, bits, flavour, first_last):
    net, outputs, rules = made
    model, data = net.model(*dict.fromkeys(outputs)), net.data(2)
    recipe = Recipe.for_bits(bits, requantize=flavour, first_last_bits=first_last, layers=rules)
    built = build(model, data, recipe=recipe)
    note(f"{[node.op_type for node in model.graph.node]} as {operators(built.integers)}")
    if FUSED & set(operators(built.integers)):
        for feeds in data:
            for got, want in zip(built.run(feeds), built.interpret(feeds), strict=True):
                np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
    else:
        built.assert_exact(data)
