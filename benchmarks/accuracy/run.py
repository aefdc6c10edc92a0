"""One row of the table measured: a method on a network at a precision, all draws."""

from __future__ import annotations

import time
import traceback
import warnings
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import networks
from benchmarks.accuracy.kernel_cache import KernelCache
from benchmarks.accuracy.methods import Method, table
from benchmarks.accuracy.network import Inputs, Network
from benchmarks.accuracy.peers import Peer, peers
from benchmarks.peers.base import Unavailable


@dataclass(frozen=True)
class Task:
    """What one process does at a time; all fields are plain, so that they travel.

    Attributes
    ----------
    network, method, bits : str
    draws : tuple of int
        Seeds of the calibration draws.
    scores : tuple of float
        Of the draws before these, measured earlier.
    places : tuple of Path
        ``shared``, ``models``, ``data`` and the folder for converted files.
    quick : bool
    """

    network: str
    method: str
    bits: str
    draws: tuple[int, ...]
    scores: tuple[float, ...]
    places: tuple[Path, Path, Path, Path]
    quick: bool


@dataclass
class Row:
    """A measured row; scores and drops in percent, seconds of CPU as medians over the draws."""

    network: str
    section: str
    method: str
    adds: str
    bits: str
    engine: str
    draws: int
    scores: list[float]
    drop: float | None = None
    spread: float | None = None
    seconds: dict[str, float] | None = None
    reason: str = ""


@cache
def _network(name: str, shared: Path, models: Path, data: Path, quick: bool) -> Network:
    return networks.load(name, shared, models, data, quick)


@cache
def _kernels() -> KernelCache:
    return KernelCache()


@cache
def _rows() -> dict[str, Method | Peer]:
    return {row.key: row for row in (*table(), *peers())}


def measure(task: Task) -> dict[str, Any]:
    """Run a task; what goes wrong becomes the row's reason."""
    method = _rows()[task.method]
    row = Row(task.network, method.section, method.name, method.adds, task.bits, "", 0, [])
    row.scores += task.scores
    seconds: list[dict[str, float]] = []
    try:
        network = _network(task.network, *task.places[:3], task.quick)
        for draw in task.draws:
            score, spent, row.engine = (
                measure_peer(network, method, task.bits, draw, task.places[3])
                if isinstance(method, Peer)
                else measure_method(network, method, task.bits, draw)
            )
            row.scores.append(score)
            seconds.append(spent)
    except Unavailable as error:
        row.reason = str(error)
    except Exception as error:
        row.reason = f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"
        row.reason += f" ({traceback.extract_tb(error.__traceback__)[-1].name})"
    if seconds:
        row.draws = len(row.scores)
        row.drop = network.float_score - float(np.mean(row.scores))
        row.spread = float(np.std(row.scores, ddof=1)) if row.draws > 1 else 0.0
        row.seconds = {
            key: round(float(np.median([spent[key] for spent in seconds])), 2) for key in seconds[0]
        }
    return asdict(row)


def measure_method(
    network: Network, method: Method, bits: str, draw: int
) -> tuple[float, dict[str, float], str]:
    """Score, seconds by step, and what ran: the compiled integer program."""
    import tvmquant

    data = network.calibration(draw) if method.data else None
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = tvmquant.quantize(
            str(network.path),
            recipe=method.make(bits),
            calibration=data,
            input_shapes=network.shapes,
        )
        quantized_at = time.process_time()
        with _kernels().active():
            model = tvmquant.compile(quantized)
    names = [info.name for info in model.inputs]

    def infer(inputs: Inputs) -> tuple[np.ndarray, ...]:
        result = model(*(inputs[name] for name in names))
        return result if isinstance(result, tuple) else (result,)

    infer(network.test[0])
    compiled_at = time.process_time()
    outputs = network.evaluate(infer)
    spent = {
        "quantize": quantized_at - start,
        "compile": compiled_at - quantized_at,
        "run": time.process_time() - compiled_at,
    }
    return network.score(outputs), spent, "compiled"


def measure_peer(
    network: Network, peer: Peer, bits: str, draw: int, work: Path
) -> tuple[float, dict[str, float], str]:
    """Score, seconds by step, and what ran, of another tool."""
    start = time.process_time()
    folder = work / f"{network.name}-{peer.name}-{bits}-{draw}".replace(" ", "_").replace("/", "_")
    folder.mkdir(parents=True, exist_ok=True)
    infer = peer.build(network, network.calibration(draw), bits, folder)
    built = time.process_time()
    outputs = network.evaluate(infer)
    spent = {"quantize": built - start, "run": time.process_time() - built}
    return network.score(outputs), spent, peer.engine
