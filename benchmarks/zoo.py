"""Well-known architectures with random weights, exported to ONNX: for latency only.

Written with torch from the papers: ResNet (He et al. 2015, with the stride in the 3x3 convolution)
and MobileNetV2 (Sandler et al. 2018). Weights are He-normal; batch norms take the statistics of
one batch of noise, so that activations keep their scale, and are folded by the export.

    python -m benchmarks.zoo resnet18 -o resnet18.onnx
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import click

RESNETS = {"resnet18": ((2, 2, 2, 2), 1), "resnet50": ((3, 4, 6, 3), 4)}
# Expansion, channels, repeats, stride of the inverted residuals of MobileNetV2.
MOBILENET = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
             (6, 160, 3, 2), (6, 320, 1, 1))  # fmt: skip
NAMES = (*RESNETS, "mobilenetv2")
NOTE = "weights are random: latency only"
SIZE = 224


def _modules() -> Any:
    """Classes are made here: torch is needed for nothing else."""
    import torch
    from torch import nn

    def conv_bn(c: int, o: int, k: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
        conv = nn.Conv2d(c, o, k, stride, k // 2, groups=groups, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out")
        return nn.Sequential(conv, nn.BatchNorm2d(o, momentum=1.0))

    class Residual(nn.Module):
        def __init__(self, body: nn.Module, shortcut: nn.Module, last: nn.Module) -> None:
            super().__init__()
            self.body, self.shortcut, self.last = body, shortcut, last

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.body(x) + self.shortcut(x))

    def resnet_block(c: int, width: int, expansion: int, stride: int) -> nn.Module:
        o = width * expansion
        if expansion == 1:
            body = [conv_bn(c, width, 3, stride), nn.ReLU(), conv_bn(width, width, 3)]
        else:
            body = [conv_bn(c, width, 1), nn.ReLU(), conv_bn(width, width, 3, stride), nn.ReLU()]
            body.append(conv_bn(width, o, 1))
        shortcut = nn.Identity() if stride == 1 and c == o else conv_bn(c, o, 1, stride)
        return Residual(nn.Sequential(*body), shortcut, nn.ReLU())

    def inverted_block(c: int, o: int, expansion: int, stride: int) -> nn.Module:
        wide, body = c * expansion, []
        if expansion != 1:
            body += [conv_bn(c, wide, 1), nn.ReLU6()]
        body += [conv_bn(wide, wide, 3, stride, groups=wide), nn.ReLU6(), conv_bn(wide, o, 1)]
        block = nn.Sequential(*body)
        same = stride == 1 and c == o
        return Residual(block, nn.Identity(), nn.Identity()) if same else block

    def head(c: int) -> list[nn.Module]:
        return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 1000)]

    def resnet(depths: tuple[int, ...], expansion: int) -> nn.Module:
        layers: list[nn.Module] = [conv_bn(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        c = 64
        for stage, depth in enumerate(depths):
            width = 64 * 2**stage
            for block in range(depth):
                stride = 2 if stage and not block else 1
                layers.append(resnet_block(c, width, expansion, stride))
                c = width * expansion
        return nn.Sequential(*layers, *head(c))

    def mobilenet() -> nn.Module:
        layers: list[nn.Module] = [conv_bn(3, 32, 3, 2), nn.ReLU6()]
        c = 32
        for expansion, o, repeats, first in MOBILENET:
            for block in range(repeats):
                layers.append(inverted_block(c, o, expansion, 1 if block else first))
                c = o
        return nn.Sequential(*layers, conv_bn(c, 1280, 1), nn.ReLU6(), *head(1280))

    return resnet, mobilenet


def export(name: str, path: Path) -> Path:
    """Write one of ``NAMES`` to ``path``, input ``image`` ``[1, 3, 224, 224]``."""
    import torch

    torch.manual_seed(0)
    resnet, mobilenet = _modules()
    model = resnet(*RESNETS[name]) if name in RESNETS else mobilenet()
    with torch.no_grad():
        model.train()(torch.randn(4, 3, SIZE, SIZE))
    image = torch.randn(1, 3, SIZE, SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(),
            (image,),
            str(path),
            input_names=["image"],
            output_names=["logits"],
            opset_version=17,
            dynamo=False,
        )
    return path


@click.command()
@click.argument("name", type=click.Choice(NAMES))
@click.option("-o", "out", required=True, type=click.Path(dir_okay=False, path_type=Path))
def main(name: str, out: Path) -> None:
    """Export NAME to an ONNX file."""
    export(name, out)


if __name__ == "__main__":
    main()
