"""The convolutions and matmuls of well-known networks at 224×224, batch 1.

ResNet-18 (He et al. 2016), ResNet-50 (with the stride in the 3×3 convolution), MobileNetV2
(Sandler et al. 2018) and EfficientNet-Lite0 (its strided layers padded at the end only).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tvmquant.precision import parse_bits
from tvmquant.schedules.winograd import weight_bound
from tvmquant.schedules.workload import Workload
from tvmquant.tuning.data import make_case

PRECISIONS = ("w8a8", "w4a8", "w4a4", "w2a2", "w1a1")

# (expansion, kernel, stride, channels, repeats) of the inverted residual blocks.
_MOBILENET_V2 = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 3, 2, 32, 3),
    (6, 3, 2, 64, 4),
    (6, 3, 1, 96, 3),
    (6, 3, 2, 160, 3),
    (6, 3, 1, 320, 1),
)
_EFFICIENTNET_LITE0 = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


def conv(
    size: int,
    channels: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    *,
    depthwise: bool = False,
    end_padding: bool = False,
) -> Workload:
    """An 8-bit convolution of a square image that keeps or halves its size."""
    before = after = kernel // 2
    if end_padding and stride == 2 and kernel > 1:
        before, after = (kernel - 2) // 2, kernel // 2
    return Workload(
        "depthwise_conv2d" if depthwise else "conv2d",
        (1, size, size, channels),
        (outputs, kernel, kernel, 1 if depthwise else channels),
        (stride, stride),
        (before, before, after, after),
        (1, 1),
        groups=channels if depthwise else 1,
    )


def dense(inputs: int) -> Workload:
    """The classifier: its result is float32."""
    return Workload("matmul", (1, inputs), (1000, inputs), requantize="dequantize")


def resnet18() -> Iterator[Workload]:
    """ResNet-18."""
    yield conv(224, 3, 64, 7, 2)
    size, channels = 56, 64
    for outputs in (64, 128, 256, 512):
        stride = 1 if outputs == channels else 2
        yield conv(size, channels, outputs, 3, stride)
        if stride == 2:
            yield conv(size, channels, outputs, 1, 2)
        size, channels = size // stride, outputs
        for _ in range(3):
            yield conv(size, channels, channels, 3)
    yield dense(512)


def resnet50() -> Iterator[Workload]:
    """ResNet-50."""
    yield conv(224, 3, 64, 7, 2)
    size, channels = 56, 64
    for width, stride, blocks in ((64, 1, 3), (128, 2, 4), (256, 2, 6), (512, 2, 3)):
        yield conv(size, channels, width, 1)
        yield conv(size, width, width, 3, stride)
        yield conv(size, channels, 4 * width, 1, stride)
        size, channels = size // stride, 4 * width
        yield conv(size, width, channels, 1)
        for _ in range(blocks - 1):
            yield conv(size, channels, width, 1)
            yield conv(size, width, width, 3)
            yield conv(size, width, channels, 1)
    yield dense(2048)


def mobilenet_v2() -> Iterator[Workload]:
    """MobileNetV2."""
    return _inverted_residuals(_MOBILENET_V2, end_padding=False)


def efficientnet_lite0() -> Iterator[Workload]:
    """EfficientNet-Lite0."""
    return _inverted_residuals(_EFFICIENTNET_LITE0, end_padding=True)


def _inverted_residuals(
    blocks: tuple[tuple[int, ...], ...], *, end_padding: bool
) -> Iterator[Workload]:
    yield conv(224, 3, 32, 3, 2, end_padding=end_padding)
    size, channels = 112, 32
    for expansion, kernel, first_stride, outputs, repeats in blocks:
        for index in range(repeats):
            stride, wide = (first_stride if index == 0 else 1), expansion * channels
            if expansion > 1:
                yield conv(size, channels, wide, 1)
            yield conv(size, wide, wide, kernel, stride, depthwise=True, end_padding=end_padding)
            size //= stride
            yield conv(size, wide, outputs, 1)
            channels = outputs
    yield conv(size, channels, 1280, 1)
    yield dense(1280)


NETWORKS: dict[str, Callable[[], Iterator[Workload]]] = {
    "resnet18": resnet18,
    "resnet50": resnet50,
    "mobilenet_v2": mobilenet_v2,
    "efficientnet_lite0": efficientnet_lite0,
}


def common_layers(
    networks: tuple[str, ...] = tuple(NETWORKS), precisions: tuple[str, ...] = PRECISIONS
) -> list[Workload]:
    """Distinct workloads of networks; the first and last layer stay at 8 bits.

    Parameters
    ----------
    networks : tuple of str
        Names in :data:`NETWORKS`.
    precisions : tuple of str
        Names as ``w4a8``.
    """
    found: dict[Workload, None] = {}
    for network in networks:
        first, *middle, last = NETWORKS[network]()
        for precision in precisions:
            w_bits, x_bits = parse_bits(precision)
            inner = (replace(layer, w_bits=w_bits, x_bits=x_bits) for layer in middle)
            found.update(dict.fromkeys((first, *map(_with_proof, inner), last)))
    return list(found)


def _with_proof(workload: Workload) -> Workload:
    """What bell-shaped weights prove, noted where ``pack`` does."""
    if workload.op != "conv2d" or workload.w_shape[1:3] != (3, 3) or workload.strides != (1, 1):
        return workload
    return replace(workload, max_abs_sum=weight_bound(make_case(workload).weight))
