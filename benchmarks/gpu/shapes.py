"""Shapes that are measured, as plain numbers: what matters most comes first."""

from __future__ import annotations

from collections.abc import Iterator

# Rows, inputs, outputs of matrix products.
GEMMS = (
    (4096, 4096, 4096),
    (8192, 8192, 8192),
    (1, 4096, 4096),
    (1, 8192, 8192),
    (16, 4096, 4096),
    (64, 4096, 4096),
    (128, 8192, 8192),
    (512, 1024, 1024),
    (1024, 4096, 4096),
    (2048, 2048, 2048),
    (4096, 1024, 8192),
    (8192, 8192, 1024),
)
# With 4-bit weights and float activations.
WEIGHT_ONLY = ((1, 8192, 8192), (1, 4096, 4096), (8, 8192, 8192), (32, 4096, 4096))
GROUP = 128
BATCHES = (8, 128, 1)
NETWORKS = ("resnet50", "efficientnet_lite0")


def resnet50_layers() -> Iterator[tuple[int, int, int, int, int]]:
    """Size, inputs, outputs, kernel and stride of all distinct convolutions of ResNet-50."""
    found = [(224, 3, 64, 7, 2)]
    inputs, size = 64, 56
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        outputs, small = width * 4, size // stride
        found += [(size, inputs, width, 1, 1), (size, width, width, 3, stride)]
        found += [(size, inputs, outputs, 1, stride), (small, width, outputs, 1, 1)]
        found += [(small, outputs, width, 1, 1), (small, width, width, 3, 1)]
        inputs, size = outputs, small
    yield from dict.fromkeys(found)


def conv_name(batch: int, size: int, inputs: int, outputs: int, kernel: int, stride: int) -> str:
    """Name of a convolution in results."""
    step = f" /{stride}" if stride > 1 else ""
    return f"{kernel}x{kernel} {inputs}->{outputs} @{size}{step} batch {batch}"
