"""Single layers: kernels of tvmquant against one-node graphs of the other engines.

python -m benchmarks.layers writes layers.json, layers.md and layers.png; with --isa avx2
layers_avx2.json and so on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import limits
from benchmarks.layer_cases import LAYERS, Layer
from benchmarks.models import parse_bits_option

INNER = 10
# What calling an engine costs is measured with this and subtracted.
TINY = Layer("call", "matmul", 1, 0, 16, 16)


@click.command()
@click.option(
    "--bits", default="8,w4a8,4,2,1,w4a16", callback=parse_bits_option, help="Precisions."
)
@click.option("--rounds", default=20, type=click.IntRange(1), help=f"Turns of {INNER} runs each.")
@click.option("--threads", default=1, type=click.IntRange(1))
@click.option("--only", default="", help="Layers whose name or group contains this.")
@click.option("--peers/--no-peers", default=True, help="Measure the other engines too.")
@click.option(
    "--isa", default="host", type=click.Choice(list(limits.ISAS)), help="As on a lesser processor."
)
@click.option("-o", "out", default="benchmarks/results", type=click.Path(path_type=Path))
def main(
    bits: list[str], rounds: int, threads: int, only: str, peers: bool, isa: str, out: Path
) -> None:
    """Measure single layers in GOP/s and as a fraction of the measured instruction peak."""
    os.environ["TVM_NUM_THREADS"] = str(threads)
    limits.limit(isa)
    layers = [layer for layer in LAYERS if only in layer.name or only == layer.group]
    if not layers:
        raise click.UsageError(f"no layer is called {only!r}; groups: {_groups()}")
    from benchmarks.layer_report import layer_table, write_layers
    from benchmarks.machine import describe_machine, versions
    from benchmarks.peaks import measure_peaks
    from benchmarks.report import machine_text

    console = Console()
    console = console if console.is_terminal else Console(width=160)
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "versions": versions(),
        "settings": {"rounds": rounds, "inner": INNER, "threads": threads},
        "peaks": measure_peaks(limits.device()),
        "isa": isa,
        "call_us": {},
        "layers": [],
    }
    console.print(machine_text(report), highlight=False)
    calls = measure_layer(TINY, bits[:1], rounds, threads, peers, {})
    for row in calls["rows"]:
        if "us" in row:
            engine, cost = row["engine"], row["us"]
            report["call_us"][engine] = min(cost, report["call_us"].get(engine, cost))
    for layer in layers:
        console.print(layer.name, highlight=False)
        result = measure_layer(layer, bits, rounds, threads, peers, report["call_us"])
        report["layers"].append(result)
        write_layers(report, out, limits.suffix(isa))
    console.print(layer_table(report))
    stem = f"layers{limits.suffix(isa)}"
    console.print(f"wrote {stem}.json, {stem}.md and {stem}.png to {out}", highlight=False)


def _groups() -> str:
    return ", ".join(dict.fromkeys(layer.group for layer in LAYERS))


def measure_layer(
    layer: Layer,
    bits: list[str],
    rounds: int,
    threads: int,
    peers: bool,
    call_us: dict[str, float],
) -> dict[str, Any]:
    """Time one layer in all engines; plain data.

    ``call_us`` is subtracted from the median, by engine.
    """
    from benchmarks.measure import blame
    from benchmarks.timing import interleave
    from tvmquant.runtime.threads import use_threads

    sessions, rows = {}, []
    for engine, name, make in _contenders(layer, bits, threads, peers):
        row: dict[str, Any] = {"engine": engine, "name": name}
        rows.append(row)
        with blame(row):
            sessions[name] = make()
            row["kernel"] = getattr(sessions[name], "label", "")
            row["exact"] = getattr(sessions[name], "exact", None)
    with use_threads(threads):
        times = interleave({n: s.run for n, s in sessions.items()}, rounds, inner=INNER)
    for row in rows:
        if row["name"] not in times:
            continue
        measured = times[row["name"]].cpu if threads == 1 else times[row["name"]].wall
        us = measured.median * 1e3 - call_us.get(row["engine"], 0.0)
        row["us"] = max(us, 1e-3)
        row["p10_us"], row["p90_us"] = measured.p10 * 1e3, measured.p90 * 1e3
        row["gops"] = 2e-3 * layer.macs / row["us"]
    return {"name": layer.name, "group": layer.group, "macs": layer.macs, "rows": rows}


def _contenders(
    layer: Layer, bits: list[str], threads: int, peers: bool
) -> list[tuple[str, str, Callable[[], Any]]]:
    """Engine, name, and what makes the session."""
    from benchmarks import peer_layers
    from benchmarks.layer_data import LayerData
    from benchmarks.openvino_layer import OpenVinoLayer
    from benchmarks.ours_layer import OurLayer
    from benchmarks.ours_weight_only import OurWeightOnlyLayer
    from tvmquant.precision import FLOAT_BITS, parse_bits

    made: list[tuple[str, str, Callable[[], Any]]] = []
    for name in bits:
        w_bits, x_bits = parse_bits(name)
        data = LayerData(layer, x_bits, w_bits)
        if x_bits in FLOAT_BITS:
            if layer.is_matmul:
                made.append(("tvmquant", f"w{w_bits}a{x_bits}", partial(OurWeightOnlyLayer, data)))
            continue
        made.append(("tvmquant", f"w{w_bits}a{x_bits}", partial(OurLayer, data)))
    if not peers:
        return made
    data = LayerData(layer, 8, 8)

    def ort(name: str, make: Any) -> tuple[str, str, Callable[[], Any]]:
        session = partial(peer_layers.ort_session, make, data, threads)
        return ("onnxruntime", f"onnxruntime {name}", session)

    if layer.is_matmul:
        made.append(ort("QLinearMatMul", peer_layers.qlinear_matmul))
        made.append(ort("MatMulInteger", peer_layers.matmul_integer))
        if layer.channels % peer_layers.BLOCK == 0:
            made += [ort(f"MatMulNBits {b}", peer_layers.matmul_nbits(b)) for b in (8, 4, 2)]
            made.append(
                ort("MatMulNBits 4 float", peer_layers.matmul_nbits(4, peer_layers.FLOAT_LEVEL))
            )
    else:
        made.append(ort("QLinearConv", peer_layers.qlinear_conv))
    made.append(ort("fp32", peer_layers.float_layer))
    if layer is not TINY:
        made.append(("openvino", "openvino int8", partial(OpenVinoLayer, data, threads)))
    return made


if __name__ == "__main__":
    main()
