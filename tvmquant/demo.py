"""``tvmquant demo``: the bundled classifier at every precision, next to float."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from rich.table import Table

import tvmquant
from tvmquant.errors import BundleError
from tvmquant.runtime.accuracy import top1
from tvmquant.runtime.bundle import bundle_bytes
from tvmquant.runtime.compiled_model import CompiledModel
from tvmquant.runtime.manifest import TensorInfo
from tvmquant.runtime.threads import use_threads

Progress = Callable[[str, int, int], None]

PRECISIONS: tuple[int | str, ...] = (8, "w4a8", 4, 2, 1)
# All 256 take four times as long and change the 8- and 4-bit rows by less than a percent.
CALIBRATION_PICTURES = 64
INPUT, SHAPE = "image", (1, 1, 28, 28)


@dataclass(frozen=True)
class DemoRow:
    """One precision.

    Attributes
    ----------
    precision : str
    top1 : float
        Share of the test pictures, 0 to 1.
    file_bytes : int or None
        Float: the ONNX file; else the shared library; ``None`` where there is no linker.
    median_ms : float
        One picture, one thread.
    speedup : float
        Time of float in ONNX Runtime over the time of this row, both from one interleaved
        measurement.
    """

    precision: str
    top1: float
    file_bytes: int | None
    median_ms: float
    speedup: float


@dataclass(frozen=True)
class DemoResult:
    """All rows, float first, and where they were measured."""

    rows: tuple[DemoRow, ...]
    pictures: int
    machine: str
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON."""
        return asdict(self)

    def table(self) -> Table:
        """A rich table."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        caption = f"{self.machine}; {versions}; quantized after training, without retraining"
        if any(row.file_bytes is None for row in self.rows):
            caption += "; saving needs gcc, clang or: python -m pip install ziglang"
        table = Table(
            title=f"Fashion-MNIST classifier, {self.pictures:,} test pictures, one thread",
            caption=caption,
        )
        table.add_column("precision")
        for header in ("top-1", "file size", "latency", "speed-up over float"):
            table.add_column(header, justify="right")
        for row in self.rows:
            size = "-" if row.file_bytes is None else f"{row.file_bytes / 1000:,.0f} kB"
            table.add_row(
                row.precision,
                f"{row.top1:.1%}",
                size,
                f"{row.median_ms:.3f} ms",
                f"{row.speedup:.2f}×",
            )
        return table


class FloatModel:
    """The same network in ONNX Runtime, one thread."""

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = (TensorInfo(INPUT, SHAPE, "float32"),)

    def __call__(self, *arrays: Any) -> np.ndarray:
        """Logits ``[1, 10]``."""
        return self._session.run(None, {INPUT: arrays[0]})[0]


def run_demo(
    progress: Progress,
    *,
    precisions: Sequence[int | str] = PRECISIONS,
    pictures: int | None = None,
    rounds: int = 100,
) -> DemoResult:
    """Compile, save, load, evaluate and time the bundled classifier.

    Parameters
    ----------
    progress : callable
        Called as ``progress(stage, done, total)``.
    precisions : sequence
        Precision names as for :func:`tvmquant.compile`.
    pictures : int, optional
        Test pictures to use, all by default.
    rounds : int
        Timed runs of each model; in every round each model runs once.
    """
    assets = Path(str(files("tvmquant") / "assets"))
    with np.load(assets / "demo_test.npz") as data:
        x, y = normalise(data["x"][:pictures]), data["y"][:pictures]
        calibration = [
            {INPUT: sample[None]} for sample in normalise(data["x_calib"][:CALIBRATION_PICTURES])
        ]

    network = assets / "demo.onnx"
    models: list[Any] = [FloatModel(network)]
    names = ["float (ONNX Runtime)"]
    sizes: list[int | None] = [network.stat().st_size]
    for index, bits in enumerate(precisions):
        progress("compile", index, len(precisions))
        compiled = tvmquant.compile(
            network, bits=bits, calibration=calibration, input_shapes={INPUT: SHAPE}
        )
        model, size = _through_disk(compiled)
        models.append(model)
        names.append(model.precision)
        sizes.append(size)
    progress("compile", len(precisions), len(precisions))

    accuracies = []
    for index, model in enumerate(models):
        progress("evaluate", index, len(models))
        accuracies.append(top1(model, x, y))
    progress("evaluate", len(models), len(models))

    times = interleaved(models, x[:1], rounds=rounds, progress=progress)
    rows = tuple(
        DemoRow(name, accuracy, size, ms, times[0] / ms)
        for name, accuracy, size, ms in zip(names, accuracies, sizes, times)
    )
    packages = ("tvmquant", "apache-tvm", "onnxruntime")
    versions = {name: metadata.version(name) for name in packages}
    return DemoResult(rows, len(y), machine_name(), versions)


def normalise(pictures: np.ndarray) -> np.ndarray:
    """uint8 ``[n, 28, 28]`` → float32 ``[n, 1, 28, 28]`` in [-1, 1], as in training."""
    return ((pictures.astype(np.float32) / 255 - 0.5) / 0.5)[:, None]


def interleaved(
    models: Sequence[Callable[[np.ndarray], Any]],
    x: np.ndarray,
    *,
    rounds: int,
    progress: Progress,
    warmup: int = 10,
) -> list[float]:
    """Median milliseconds a run of each model, on one thread.

    In every round each model runs once, so that whatever else the machine does slows all alike.
    """
    times = np.zeros((rounds, len(models)))
    with use_threads(1):
        for model in models:
            for _ in range(warmup):
                model(x)
        for index in range(rounds):
            for column, model in enumerate(models):
                # One run untimed: the caches then hold this model, not the one before.
                model(x)
                start = time.perf_counter_ns()
                model(x)
                times[index, column] = (time.perf_counter_ns() - start) / 1e6
            progress("measure", index + 1, rounds)
    return [float(value) for value in np.median(times, axis=0)]


def machine_name() -> str:
    """Processor, as the operating system names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _through_disk(model: CompiledModel) -> tuple[CompiledModel, int | None]:
    """Save and load, so that the demo shows what a user would ship, and its size.

    Saving needs a linker; without one the model runs from memory.
    """
    with tempfile.TemporaryDirectory(prefix="tvmquant-demo-") as folder:
        try:
            saved = model.save(Path(folder) / "model")
        except BundleError:
            return model, None
        return tvmquant.load(saved), bundle_bytes(saved)
