"""Train the networks of the accuracy laboratory on Fashion-MNIST and export them to ONNX.

Needs ``torch``, ``onnx``, ``onnxruntime``, ``numpy``, ``click`` and ``rich``::

    python train_fashion_mnist.py --data fashion_mnist.npz --out OUTPUT_DIR

The archive holds ``x_train``, ``y_train``, ``x_test`` and ``y_test``, pictures as uint8 28x28.
Written are ``resnet20_fashion.onnx`` and ``mobilenetv2_fashion.onnx``: input ``image``
[batch, 1, 28, 28] in [-1, 1], output ``logits`` [batch, 10], with the BatchNormalization nodes
kept, because data-free quantization reads the ranges of activations from their scale and shift.

Sources: He et al., "Deep Residual Learning for Image Recognition" (2016), section 4.2; Sandler et
al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018).
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime as ort
import torch
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

CLASSES = 10
# Each stage of the small MobileNetV2: expansion, output channels, blocks, stride of the first.
STAGES = (
    (1, 8, 1, 1),
    (4, 12, 2, 2),
    (6, 16, 3, 2),
    (6, 24, 4, 1),
    (6, 40, 3, 1),
    (6, 48, 3, 1),
    (6, 64, 1, 1),
)


@dataclass(frozen=True)
class Plan:
    """How a network is trained: some 15 to 25 minutes on one core."""

    make: Callable[[], nn.Module]
    epochs: int
    batch: int
    rate: float  # peak of the cosine cycle
    decay: float
    holes: float = 0.25


def conv(
    cin: int, cout: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, nn.Module]:
    """Return a bias-free convolution with same padding, and its BatchNorm."""
    layer = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return layer, nn.BatchNorm2d(cout)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions added to their input, which a 1x1 convolution widens where needed."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*conv(cin, cout, 3, stride), nn.ReLU(), *conv(cout, cout))
        same = cin == cout and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(*conv(cin, cout, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return torch.relu(self.body(x) + self.shortcut(x))


class InvertedResidual(nn.Module):
    """A 1x1 expansion, a 3x3 depthwise and a linear 1x1 convolution, added to equal shapes."""

    def __init__(self, cin: int, cout: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = cin * expansion
        expand = (*conv(cin, wide, 1), nn.ReLU6(inplace=True)) if expansion > 1 else ()
        depthwise = (*conv(wide, wide, 3, stride, groups=wide), nn.ReLU6(inplace=True))
        self.body = nn.Sequential(*expand, *depthwise, *conv(wide, cout, 1))
        self.residual = cin == cout and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return x + self.body(x) if self.residual else self.body(x)


def resnet20() -> nn.Sequential:
    """Return the untrained ResNet-20: three stages of three blocks, 16, 32 and 64 wide."""
    layers = [*conv(1, 16), nn.ReLU()]
    cin = 16
    for cout, stride in ((16, 1), (32, 2), (64, 2)):
        for index in range(3):
            layers.append(BasicBlock(cin, cout, stride if index == 0 else 1))
            cin = cout
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES))


def mobilenetv2() -> nn.Sequential:
    """Return the untrained MobileNetV2 of 17 blocks, scaled to pictures of 28x28."""
    layers = [*conv(1, 16), nn.ReLU6(inplace=True)]
    cin = 16
    for expansion, cout, blocks, stride in STAGES:
        for index in range(blocks):
            layers.append(InvertedResidual(cin, cout, expansion, stride if index == 0 else 1))
            cin = cout
    layers += [*conv(cin, 192, 1), nn.ReLU6(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(192, CLASSES))


PLANS = {
    "resnet20": Plan(resnet20, epochs=16, batch=128, rate=0.1, decay=5e-4),
    "mobilenetv2": Plan(mobilenetv2, epochs=8, batch=32, rate=0.06, decay=1e-4, holes=0),
}


def count_macs(model: nn.Module) -> int:
    """Count the multiply-accumulates of convolutions and linear layers for one picture."""
    total = 0

    def hook(layer: nn.Module, _: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal total
        total += layer.weight[0].numel() * out.numel()

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [m.register_forward_hook(hook) for m in layers]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 1, 28, 28))
    for handle in handles:
        handle.remove()
    return total


def normalise(x: Tensor) -> Tensor:
    """Turn uint8 pictures [N, 28, 28] into float input [N, 1, 28, 28] within [-1, 1]."""
    return ((x.float() / 255 - 0.5) / 0.5).unsqueeze(1)


def augment(
    x: Tensor, generator: torch.Generator, shift: int = 2, hole: int = 8, holes: float = 0.0
) -> Tensor:
    """Shift each picture, mirror half of them and blacken a square in some.

    Parameters
    ----------
    x : Tensor
        uint8 pictures, [N, H, W].
    generator : torch.Generator
        Source of the random numbers.
    shift : int
        Largest shift in pixels; what moves in is black.
    hole : int
        Edge of the blackened square in pixels.
    holes : float
        Share of the pictures that get one.

    Returns
    -------
    Tensor
        uint8 pictures of the same shape.

    """
    n, h, w = x.shape
    padded = nn.functional.pad(x, (shift,) * 4)
    dy, dx = torch.randint(0, 2 * shift + 1, (2, n, 1), generator=generator)
    flip = torch.rand(n, 1, generator=generator) < 0.5
    rows = dy + torch.arange(h)
    cols = dx + torch.where(flip, torch.arange(w - 1, -1, -1), torch.arange(w))
    moved = padded[torch.arange(n)[:, None, None], rows[:, :, None], cols[:, None, :]]
    top, left = torch.randint(0, min(h, w) - hole + 1, (2, n, 1), generator=generator)
    top = torch.where(torch.rand(n, 1, generator=generator) < holes, top, h)
    inside_row = (torch.arange(h) >= top) & (torch.arange(h) < top + hole)
    inside_col = (torch.arange(w) >= left) & (torch.arange(w) < left + hole)
    return moved.masked_fill(inside_row[:, :, None] & inside_col[:, None, :], 0)


def atomic_write(path: Path, write: Callable[[str], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it into place."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-", suffix=path.suffix)
    os.close(fd)
    try:
        write(name)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def export(model: nn.Module, name: str) -> None:
    """Write `model` to the ONNX file `name`: BatchNorm kept, a dynamic batch dimension."""
    torch.onnx.export(
        model.eval(),
        (torch.zeros(1, 1, 28, 28),),
        name,
        input_names=["image"],
        output_names=["logits"],
        opset_version=17,
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
    )


def train(
    model: nn.Module,
    pictures: tuple[Tensor, Tensor],
    plan: Plan,
    bf16: bool,
    generator: torch.Generator,
    console: Console,
) -> None:
    """Train `model` in place on (pictures [N, 28, 28], labels [N]) with one cosine cycle."""
    x, y = pictures
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), plan.rate, 0.9, weight_decay=plan.decay, nesterov=True
    )
    batch, steps, epochs = plan.batch, len(x) // plan.batch, plan.epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, plan.rate, epochs * steps, pct_start=0.15, cycle_momentum=False
    )
    loss_function = nn.CrossEntropyLoss(label_smoothing=0.05)
    columns = (*Progress.get_default_columns()[:-1], TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=epochs * steps)
        for epoch in range(epochs):
            model.train()
            total = torch.zeros(())
            for index in torch.randperm(len(x), generator=generator)[: steps * batch].split(batch):
                inputs = normalise(augment(x[index], generator, holes=plan.holes))
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    logits = model(inputs.to(memory_format=torch.channels_last))
                loss = loss_function(logits.float(), y[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.detach()
                progress.advance(task)
            console.print(
                f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}, "
                f"{progress.tasks[task].elapsed or 0:.0f} s"
            )
    model.to(memory_format=torch.contiguous_format).eval()


def resume(model: nn.Module, path: Path) -> None:
    """Give `model` the weights and statistics of a file that `export` wrote."""
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    state = model.state_dict()
    wanted = [key for key in state if not key.endswith("num_batches_tracked")]
    missing = [key for key in wanted if key not in stored]
    if missing:
        raise click.ClickException(f"{path.name} has no {missing[0]}: was it made by this program?")
    model.load_state_dict({**state, **{key: torch.tensor(stored[key]) for key in wanted}})


def guess(model: nn.Module, x: Tensor) -> Tensor:
    """Return the most likely class of each uint8 picture [N, 28, 28], in float32."""
    with torch.no_grad():
        return torch.cat([model(normalise(part)).argmax(1) for part in x.split(500)])


@click.command(context_settings={"show_default": True})
@click.option("--data", type=click.Path(exists=True, dir_okay=False), required=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path())
@click.option("--network", type=click.Choice([*PLANS, "all"]), default="all")
@click.option("--epochs", type=click.IntRange(1), help="Default: 16 and 8.")
@click.option(
    "--resume",
    "start_from",
    type=click.Path(exists=True, path_type=Path),
    help="Folder of networks to train on.",
)
@click.option("--rate", type=float, help="Peak of the learning rate. Default: the network's.")
@click.option("--seed", type=int, default=0)
@click.option("--threads", type=click.IntRange(1), default=1)
@click.option("--bf16/--fp32", default=True, help="Arithmetic of the training convolutions.")
def main(
    data: str,
    out: Path,
    network: str,
    epochs: int | None,
    start_from: Path | None,
    rate: float | None,
    seed: int,
    threads: int,
    bf16: bool,
) -> None:
    """Train the networks and write NETWORK_fashion.onnx to --out."""
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    with np.load(data) as file:
        keys = ("x_train", "y_train", "x_test", "y_test")
        x, y, x_test, y_test = (torch.from_numpy(file[key]) for key in keys)
    y, y_test = y.long(), y_test.long()
    console = Console()
    for name in PLANS if network == "all" else (network,):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        plan = PLANS[name]
        plan = replace(plan, rate=rate or plan.rate, epochs=epochs or plan.epochs)
        model = plan.make()
        if start_from is not None:
            resume(model, start_from / f"{name}_fashion.onnx")
        params = sum(p.numel() for p in model.parameters())
        console.print(f"{name}: {params:,} parameters, {count_macs(model):,} MACs a picture")
        start = time.monotonic()
        train(model, (x, y), plan, bf16, generator, console)
        seconds = time.monotonic() - start
        guesses = guess(model, x_test)
        path = out / f"{name}_fashion.onnx"
        atomic_write(path, lambda file, model=model: export(model, file))
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {"image": normalise(x_test).numpy()})
        same = int((torch.from_numpy(logits).argmax(1) == guesses).sum())
        hits = (guesses == y_test).float().mean()
        console.print(f"trained in {seconds:.0f} s; float top-1 {hits:.2%} of {len(x_test)}")
        console.print(f"ONNX Runtime and torch agree on {same}/{len(x_test)}")


if __name__ == "__main__":
    main()
