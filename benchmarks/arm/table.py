"""Counts layers and networks and writes ``arm.json`` and ``arm.md``.

    python -m benchmarks.arm.table -o benchmarks/results --network resnet18.onnx

What is counted replaces earlier entries of the same name in the JSON; the rest stays.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.arm import cycles, ncnn_layer, ncnn_network
from benchmarks.arm.ours import count_kernel, device_of, find, workload_of
from benchmarks.arm.ours_network import count_network, quantize
from benchmarks.arm.plugin import Counts
from benchmarks.arm.report import markdown
from benchmarks.arm.table_layers import NAMES, find_layer
from tests.emulated_pi import CPUS, emulated_pi
from tvmquant.errors import TvmQuantError
from tvmquant.frontend import load_model
from tvmquant.precision import parse_bits

Row = dict[str, Any]


def measured(counts: Counts, cpu: str, macs: int) -> Row:
    """What the table says of one program on one core."""
    classes = counts.by_class()
    advice = cycles.estimate(counts, cpu)
    inner = advice.hottest
    text = cycles.disassemble(inner.words)
    names = [line.split()[0] for line in text]
    return {
        "executed": counts.total,
        "classes": classes,
        "macs": macs,
        "macs_per_simd": macs / max(1, classes["simd_multiply"] + classes["simd_other"]),
        "advisory_cycles": round(advice.total),
        "cycles_cover": round(advice.covered, 4),
        "inner_loop": {
            "instructions": len(inner.words),
            "executions": inner.executions,
            "advisory_cycles": inner.cycles,
            "mnemonics": {name: names.count(name) for name in sorted(set(names))},
        },
    }


def layer_rows(name: str, cpu: str, bits: list[str]) -> Iterator[Row]:
    """Rows of one layer on one core."""
    layer = find_layer(name)
    for precision in ("int8", "int8 inner", "fp32"):
        counts = ncnn_layer.count_ncnn(emulated_pi(python=True), cpu, layer, precision)
        yield {"contender": f"ncnn {precision}", **measured(counts, cpu, layer.macs)}
    for text in bits:
        w_bits, x_bits = parse_bits(text)
        workload = workload_of(layer, x_bits, w_bits)
        kernel = find(workload, device_of(cpu))
        result = count_kernel(emulated_pi(), cpu, kernel, workload)
        row = {"contender": f"w{w_bits}a{x_bits}", "kernel": result.label, "exact": result.exact}
        yield row | measured(result.counts, cpu, layer.macs)


def network_rows(model: Path, cpu: str, bits: list[str], ncnn: bool) -> Iterator[Row]:
    """Rows of one network on one core."""
    (info,) = load_model(model).inputs
    pi = emulated_pi(python=True)
    quantized = {text: quantize(model, text) for text in bits}
    rows = []
    for text, each in quantized.items():
        w_bits, x_bits = parse_bits(text)
        result = count_network(emulated_pi(), cpu, each)
        row = {
            "contender": f"w{w_bits}a{x_bits}",
            "exact": result.exact,
            "kernels": result.kernels,
            "bundle_bytes": result.bundle_bytes,
            "executed_in_runtime": result.runtime,
        }
        rows.append(row | measured(result.counts, cpu, result.macs))
    if ncnn:
        floating = ncnn_network.convert(model, info.shape)
        x = np.random.default_rng(0).standard_normal(info.shape[1:]).astype(np.float32)
        integers = ncnn_network.quantize(pi, floating, x)
        outs = {}
        for precision, layers in (("int8", integers), ("fp32", floating)):
            counts, outs[precision] = ncnn_layer.run_model(pi, cpu, layers, x)
            yield {"contender": f"ncnn {precision}", **measured(counts, cpu, rows[0]["macs"])}
    yield from rows


@click.command()
@click.option("--layer", "layers", multiple=True, help="Instead of all of them.")
@click.option("--network", "networks", multiple=True, type=click.Path(exists=True, path_type=Path))
@click.option("--bits", default="8,w4a8,4,2,w1a2,1", help="Precisions of the layers.")
@click.option("--network-bits", default="8,2,1", help="Precisions of the networks.")
@click.option("--cpu", "cpus", multiple=True, default=CPUS, show_default=True)
@click.option("--layers/--no-layers", "with_layers", default=True)
@click.option("--ncnn/--no-ncnn", default=True, help="Whole networks in ncnn, too (needs pnnx).")
@click.option("-o", "out", default="benchmarks/results", type=click.Path(path_type=Path))
def main(
    layers: tuple[str, ...],
    networks: tuple[Path, ...],
    bits: str,
    network_bits: str,
    cpus: tuple[str, ...],
    with_layers: bool,
    ncnn: bool,
    out: Path,
) -> None:
    """Count executed instructions of layers and networks for ARM, next to ncnn."""
    file = out / "arm.json"
    report: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"rows": []}

    def note(kind: str, name: str, cpu: str, rows: Iterator[Row]) -> None:
        try:
            for row in rows:
                row = {"kind": kind, "name": name, "cpu": cpu, **row}
                key = _key(row)
                report["rows"] = [old for old in report["rows"] if _key(old) != key] + [row]
                click.echo(f"{name:24} {cpu} {row['contender']:12} {row['executed']:13,}")
        except (TvmQuantError, RuntimeError, AssertionError) as error:
            click.echo(f"{name} {cpu}: {str(error).strip().splitlines()[-1]}", err=True)
        report["qemu"], report["llvm"] = _qemu_version(), cycles.llvm_version()
        report["ncnn"] = ncnn_layer.VERSION
        file.write_text(json.dumps(report, indent=1) + "\n")
        file.with_suffix(".md").write_text(markdown(report))

    for cpu in cpus:
        for name in layers or (NAMES if with_layers else ()):
            note("layer", name, cpu, layer_rows(name, cpu, bits.split(",")))
        for model in networks:
            rows = network_rows(model, cpu, network_bits.split(","), ncnn)
            note("network", model.stem, cpu, rows)


def _key(row: Row) -> tuple[str, ...]:
    return tuple(row[field] for field in ("kind", "name", "cpu", "contender"))


def _qemu_version() -> str:
    done = subprocess.run(
        [emulated_pi().qemu, "--version"], capture_output=True, text=True, check=True
    )
    return done.stdout.split("version ")[1].split()[0]


if __name__ == "__main__":
    main()
