"""Networks whose batch norms tell the truth, for the tests of quantization without data."""

import numpy as np
from networks import Net, run_onnx


class NormNet(Net):
    """Builds networks with batch norms that have seen ``normalize``'s data."""

    def batch_norm(self, x: str, c: int, spread: float = 0.5) -> str:
        """Batch norm with scales and shifts of its own."""
        gamma = np.exp(self.rng.normal(0, spread, c)).astype(np.float32)
        beta = self.rng.normal(0.3, 0.5, c).astype(np.float32)
        moments = [self.constant(np.zeros(c, np.float32)), self.constant(np.ones(c, np.float32))]
        return self.op("BatchNormalization", x, gamma, beta, *moments)

    def normalize(self, feeds) -> None:
        """Set mean and variance of every batch norm to what its input is on ``feeds``."""
        for node in self.nodes:
            if node.op_type != "BatchNormalization":
                continue
            model = self.model(node.input[0])
            seen = np.concatenate([run_onnx(model, f)[0] for f in feeds])
            axes = tuple(a for a in range(seen.ndim) if a != 1)
            self.constants[node.input[3]] = seen.mean(axes).astype(np.float32)
            self.constants[node.input[4]] = seen.var(axes).astype(np.float32)


def pictures(count, channels=3, size=12, seed=1, offset=0.4):
    """Smooth pictures, their neighbours alike: ``{"x0": [1, channels, size, size]}``."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        noise = rng.standard_normal((channels, size + 4, size + 4))
        noise = noise + 1.5 * rng.standard_normal((1, size + 4, size + 4))
        smooth = sum(noise[:, i : i + size, j : j + size] for i in range(0, 5, 2) for j in range(5))
        found.append({"x0": (0.3 * smooth[None] + offset).astype(np.float32)})
    return found


def residual(spread=0.5, seed=0):
    """conv → BN → ReLU → residual → depthwise with ReLU6 → conv → pooling → dense."""
    net = NormNet(seed)
    x = net.input(1, 3, 12, 12)
    y = net.op("Relu", net.batch_norm(net.conv(x, 3, 8, bias=False, name="stem"), 8, spread))
    z = net.batch_norm(net.conv(y, 8, 8, bias=False, name="inner"), 8, spread)
    y = net.op("Relu", net.op("Add", z, y))
    bounds = np.float32(0), np.float32(6)
    y = net.op("Clip", net.batch_norm(net.conv(y, 8, 16, 1, bias=False), 16, spread), *bounds)
    y = net.conv(y, 16, 16, group=16, strides=[2, 2], bias=False, name="depthwise")
    y = net.op("Clip", net.batch_norm(y, 16, spread), *bounds)
    y = net.op("Relu", net.batch_norm(net.conv(y, 16, 12, 1, bias=False), 12, spread))
    y = net.op("Flatten", net.op("GlobalAveragePool", y))
    model = net.dense(y, 12, 10)
    net.normalize(pictures(24))
    return net, net.model(model)
