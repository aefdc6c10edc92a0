"""Train the demo classifier of tvmquant on Fashion-MNIST and export it to ONNX.

Needs ``torch``, ``onnx``, ``onnxruntime``, ``numpy``, ``click`` and ``rich``::

    python train_demo.py --data fashion_mnist.npz --out OUTPUT_DIR

The archive holds ``x_train``, ``y_train``, ``x_test`` and ``y_test``, pictures as uint8 28x28.
Written are ``demo.onnx`` (float weights, BatchNorm folded by the exporter) and ``demo_test.npz``
(the first 1000 test pictures and 256 calibration pictures from the train split).
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import onnxruntime as ort
import torch
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

CLASSES, N_TEST, N_CALIB = 10, 1000, 256


def conv(cin: int, cout: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a bias-free convolution with same padding, followed by BatchNorm."""
    layer = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(cout))


class Residual(nn.Module):
    """Two 3x3 convolutions and a 1x1 projection shortcut, added before the last ReLU."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(cin, cout, stride=stride), nn.ReLU(), conv(cout, cout))
        self.shortcut = conv(cin, cout, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return torch.relu(self.body(x) + self.shortcut(x))


def build_model() -> nn.Sequential:
    """Return the untrained classifier: stem, residual, depthwise-separable, residual, head."""
    return nn.Sequential(
        *(conv(1, 32), nn.ReLU()),
        Residual(32, 64, stride=2),
        *(conv(64, 64, groups=64), nn.ReLU(), conv(64, 64, kernel=1), nn.ReLU()),
        Residual(64, 128, stride=2),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, CLASSES)),
    )


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


def augment(x: Tensor, generator: torch.Generator, shift: int = 2) -> Tensor:
    """Shift each picture by up to `shift` pixels both ways and mirror half of them.

    Parameters
    ----------
    x : Tensor
        uint8 pictures, [N, H, W].
    generator : torch.Generator
        Source of the random numbers.
    shift : int
        Largest shift in pixels; what moves in is black.

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
    return padded[torch.arange(n)[:, None, None], rows[:, :, None], cols[:, None, :]]


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
    """Write `model` to the ONNX file `name`, with a dynamic batch dimension."""
    axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
    options = {"opset_version": 17, "dynamic_axes": axes, "dynamo": False}
    names = {"input_names": ["image"], "output_names": ["logits"]}
    torch.onnx.export(model.eval(), (torch.zeros(1, 1, 28, 28),), name, **names, **options)


@click.command(context_settings={"show_default": True})
@click.option("--data", type=click.Path(exists=True, dir_okay=False), required=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path())
@click.option("--epochs", type=click.IntRange(1), default=26)
@click.option("--batch", type=click.IntRange(1), default=128)
@click.option("--lr", type=float, default=0.1, help="Peak learning rate of the cosine cycle.")
@click.option("--seed", type=int, default=0)
@click.option("--threads", type=click.IntRange(1), default=1)
@click.option("--bf16/--fp32", default=True, help="Arithmetic of the training convolutions.")
def main(
    data: str, out: Path, epochs: int, batch: int, lr: float, seed: int, threads: int, bf16: bool
) -> None:
    """Train the demo classifier and write demo.onnx and demo_test.npz to --out."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    with np.load(data) as file:
        keys = ("x_train", "y_train", "x_test", "y_test")
        x, y, x_test, y_test = (torch.from_numpy(file[key]) for key in keys)
    y, y_test = y.long(), y_test.long()

    model = build_model()
    params, macs = sum(p.numel() for p in model.parameters()), count_macs(model)
    model.to(memory_format=torch.channels_last)
    console, start = Console(), time.monotonic()
    console.print(f"{params:,} parameters, {macs:,} multiply-accumulates a picture")
    optimizer = torch.optim.SGD(model.parameters(), lr, 0.9, weight_decay=5e-4, nesterov=True)
    steps = len(x) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, epochs * steps, pct_start=0.15, cycle_momentum=False
    )
    loss_function = nn.CrossEntropyLoss(label_smoothing=0.05)
    columns = (*Progress.get_default_columns()[:-1], TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=epochs * steps)
        for epoch in range(epochs):
            model.train()
            total = torch.zeros(())
            for index in torch.randperm(len(x), generator=generator)[: steps * batch].split(batch):
                inputs = normalise(augment(x[index], generator))
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    logits = model(inputs.to(memory_format=torch.channels_last))
                loss = loss_function(logits.float(), y[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.detach()
                progress.advance(task)
            console.print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}")
    seconds = time.monotonic() - start

    model.to(memory_format=torch.contiguous_format).eval()
    with torch.no_grad():
        guess = torch.cat([model(normalise(part)).argmax(1) for part in x_test.split(500)])
    hits = (guess == y_test).float()
    atomic_write(out / "demo.onnx", lambda name: export(model, name))
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:N_CALIB]
    arrays = {"x": x_test[:N_TEST], "y": y_test[:N_TEST].byte(), "x_calib": x[chosen]}
    arrays = {key: value.numpy() for key, value in arrays.items()}
    atomic_write(out / "demo_test.npz", lambda name: np.savez_compressed(name, **arrays))
    session = ort.InferenceSession(out / "demo.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": normalise(x_test[:N_TEST]).numpy()})
    same = int((torch.from_numpy(logits).argmax(1) == guess[:N_TEST]).sum())
    console.print(f"trained in {seconds:.0f} s; ONNX Runtime and torch agree on {same}/{N_TEST}")
    console.print(f"float top-1: {hits.mean():.2%} of the {len(hits)} test pictures,")
    console.print(f"{hits[:N_TEST].mean():.2%} of the first {N_TEST}")


if __name__ == "__main__":
    main()
