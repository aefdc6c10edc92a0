"""Which single layers are measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """A convolution, a depthwise convolution (``groups == channels``) or a matmul.

    For a matmul ``height`` is the number of rows and everything else of a convolution is 1.
    """

    name: str
    group: str
    height: int
    width: int
    channels: int
    outputs: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1

    @property
    def is_matmul(self) -> bool:
        return self.width == 0

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """Top, left, bottom, right."""
        pad = self.kernel // 2
        return (pad, pad, pad, pad)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """``[1, H, W, C]`` or ``[M, K]``."""
        if self.is_matmul:
            return (self.height, self.channels)
        return (1, self.height, self.width, self.channels)

    @property
    def w_shape(self) -> tuple[int, ...]:
        """``[O, KH, KW, C // groups]`` or ``[O, K]``."""
        if self.is_matmul:
            return (self.outputs, self.channels)
        return (self.outputs, self.kernel, self.kernel, self.channels // self.groups)

    @property
    def macs(self) -> int:
        if self.is_matmul:
            return self.height * self.channels * self.outputs
        out = -(-self.height // self.stride) * -(-self.width // self.stride)
        return out * self.outputs * self.kernel**2 * self.channels // self.groups


def _conv(group: str, size: int, c: int, o: int, kernel: int = 1, stride: int = 1) -> Layer:
    text = f"{kernel}x{kernel} {c}->{o} @{size}" + (f" /{stride}" if stride > 1 else "")
    return Layer(text, group, size, size, c, o, kernel, stride)


def _depthwise(size: int, c: int, kernel: int, stride: int = 1) -> Layer:
    text = f"dw {kernel}x{kernel} {c} @{size}" + (f" /{stride}" if stride > 1 else "")
    return Layer(text, "depthwise", size, size, c, c, kernel, stride, c)


def _matmul(rows: int, k: int, o: int) -> Layer:
    return Layer(f"matmul {rows} x {k} -> {o}", "matmul", rows, 0, k, o)


# Of ResNet-18, EfficientNet-Lite0, both first layers, and the matmuls of classifiers and
# language models.
LAYERS = (
    *(_conv("3x3", size, c, c, 3) for size, c in ((56, 64), (28, 128), (14, 256), (7, 512))),
    _conv("first", 224, 3, 32, 3, 2),
    _conv("first", 224, 3, 64, 7, 2),
    _conv("1x1", 112, 32, 16),
    _conv("1x1", 112, 16, 96),
    _conv("1x1", 56, 24, 144),
    _conv("1x1", 56, 144, 24),
    _conv("1x1", 28, 40, 240),
    _conv("1x1", 28, 240, 40),
    _conv("1x1", 14, 80, 480),
    _conv("1x1", 14, 480, 112),
    _conv("1x1", 14, 112, 672),
    _conv("1x1", 7, 192, 1152),
    _conv("1x1", 7, 1152, 320),
    _conv("1x1", 7, 320, 1280),
    _depthwise(112, 32, 3),
    _depthwise(112, 96, 3, 2),
    _depthwise(56, 144, 3),
    _depthwise(56, 144, 5, 2),
    _depthwise(28, 240, 5),
    _depthwise(28, 240, 3, 2),
    _depthwise(14, 480, 3),
    _depthwise(14, 672, 5),
    _depthwise(14, 672, 5, 2),
    _depthwise(7, 1152, 5),
    _matmul(1, 1280, 1000),
    _matmul(32, 1280, 1000),
    _matmul(1, 4096, 4096),
    _matmul(32, 4096, 4096),
)
