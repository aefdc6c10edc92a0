"""``python -m benchmarks.gpu``: prepare a set, turn results into a report or a database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from benchmarks.gpu import report as reports

PARTS = ("exact", "gemm", "conv", "networks")
Existing = click.Path(exists=True, path_type=Path)
Output = click.Path(path_type=Path)


@click.group()
def main() -> None:
    """Kernels and networks on an NVIDIA GPU."""


@main.command(context_settings={"show_default": True})
@click.option("-o", "out", required=True, type=Output, help="Folder to write.")
@click.option("--arch", default="sm_90", help="sm_75, sm_80, …; host: this processor, as a test.")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Default: all.")
@click.option("--plans", default=7, type=click.IntRange(1), help="Kernels of a matrix product.")
@click.option("--conv-plans", default=3, type=click.IntRange(1), help="Of a convolution.")
@click.option("--exact-plans", default=5, type=click.IntRange(1), help="Of what is only compared.")
@click.option("--efficientnet", type=Existing, help="ONNX file of EfficientNet-Lite0.")
@click.option("--python", default="3.12", help="Version there; empty: tvmquant is installed there.")
@click.option("--peers/--no-peers", default=True, help="Wheels of torchao and gemlite, by pip.")
@click.option("--jobs", default=1, type=click.IntRange(1), help="Processes, of one thread each.")
@click.option("--keep", is_flag=True, help="Build nothing again, even from other sources.")
@click.option("--only", default="", help="Only cases that have this in their name.")
def prepare(
    out: Path,
    arch: str,
    parts: tuple[str, ...],
    plans: int,
    conv_plans: int,
    exact_plans: int,
    efficientnet: Path | None,
    python: str,
    peers: bool,
    jobs: int,
    keep: bool,
    only: str,
) -> None:
    """Compile everything into a folder for the machine with the GPU; needs nvcc, no GPU.

    What was built is kept in FOLDER.work, and built again when the sources of kernels change.
    """
    # Imports TVM: the other commands do without.
    from benchmarks.gpu.prepare import prepare as make

    make(
        out,
        "host" if arch == "host" else f"cuda-{arch}",
        parts or PARTS,
        plans={"gemm": plans, "conv": conv_plans, "exact": exact_plans},
        efficientnet=efficientnet,
        python=python,
        peers=peers,
        jobs=jobs,
        keep=keep,
        only=only,
        tell=click.echo,
    )


@main.command(context_settings={"show_default": True})
@click.argument("results", nargs=-1, type=Existing)
@click.option("-o", "out", default=Path("benchmarks/results"), type=Output)
def report(results: tuple[Path, ...], out: Path) -> None:
    """Write gpu.json and gpu.md from files of measure.py; the later ones replace equal rows.

    Without files: the report that says what is not yet measured.
    """
    merged = reports.merge([_read(path) for path in results])
    reports.write(merged, out)
    click.echo(f"{len(merged.get('rows', []))} rows in {out / 'gpu.md'}")


@main.command()
@click.argument("results", type=Existing)
@click.argument("database", type=Output)
def records(results: Path, database: Path) -> None:
    """Append the times of kernels to a tuning database (``tvmquant compile --database``)."""
    from benchmarks.gpu.records import append

    click.echo(f"{append(_read(results), database)} records in {database}")


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise click.ClickException(f"cannot read {path}: {error}") from None


if __name__ == "__main__":
    main()
