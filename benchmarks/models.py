"""Whole models: tvmquant at every precision against the other engines.

python -m benchmarks.models MODEL... writes models.json, models.md and models.png; with --isa avx2
models_avx2.json and so on.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import limits, zoo

ENGINES = ("tvmquant", "onnxruntime", "openvino", "ncnn", "mnn", "litert")
File = click.Path(exists=True, path_type=Path)


def _list(_context: Any, _param: Any, text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _threads(context: Any, param: Any, text: str) -> list[int]:
    try:
        counts = sorted({int(part) for part in _list(context, param, text)})
    except ValueError:
        counts = []
    if not counts or counts[0] < 1:
        raise click.BadParameter(f"{text!r} is no list of numbers of at least 1, such as 1,2")
    return counts


def parse_bits_option(context: Any, param: Any, text: str) -> list[str]:
    """Precisions of tvmquant, comma-separated."""
    from tvmquant.errors import InputError
    from tvmquant.precision import parse_bits

    bits = _list(context, param, text)
    for name in bits:
        try:
            parse_bits(name)
        except InputError as error:
            raise click.BadParameter(str(error)) from None
    return bits


def _engines(context: Any, param: Any, text: str) -> list[str]:
    engines = _list(context, param, text)
    unknown = sorted(set(engines) - set(ENGINES))
    if unknown or not engines:
        raise click.BadParameter(
            f"unknown engine {', '.join(unknown)}; known: {', '.join(ENGINES)}"
        )
    return engines


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--calibration", type=File, help=".npz of inputs, or a folder with NAME.npz.")
@click.option("--dataset", type=File, help=".npz of x and y, or a folder with NAME.npz.")
@click.option(
    "--bits", default="8,w4a8,4,2,1", callback=parse_bits_option, help="Precisions of tvmquant."
)
@click.option("--threads", default="1,2", callback=_threads, help="Numbers of threads.")
@click.option("--rounds", default=30, type=click.IntRange(1), help="Turns of every contender.")
@click.option("--engines", default=",".join(ENGINES), callback=_engines, help="Who takes part.")
@click.option(
    "--isa", default="host", type=click.Choice(list(limits.ISAS)), help="As on a lesser processor."
)
@click.option("-o", "out", default="benchmarks/results", type=click.Path(path_type=Path))
def main(models: tuple[str, ...], isa: str, out: Path, **options: Any) -> None:
    """Measure MODELs: ONNX files, or resnet18, resnet50, mobilenetv2 (random weights)."""
    for model in models:
        if model not in zoo.NAMES and not Path(model).is_file():
            raise click.UsageError(f"no file {model}; names: {', '.join(zoo.NAMES)}")
    # Read once, when TVM's pool of threads starts.
    os.environ["TVM_NUM_THREADS"] = str(options["threads"][-1])
    limits.limit(isa)
    console = Console()
    console = console if console.is_terminal else Console(width=120)
    report = _describe(options)
    from benchmarks.report import machine_text, model_table
    from benchmarks.write import write_report

    console.print(machine_text(report), highlight=False)
    for model in models:
        result = _isolated(model, options, report["peaks"])
        console.print(model_table(result))
        for note in result["notes"]:
            console.print(f"  {note}", highlight=False)
        report["models"].append(result)
        # After every model: what is measured survives an interruption.
        write_report(report, out, limits.suffix(isa))
    stem = f"models{limits.suffix(isa)}"
    console.print(f"wrote {stem}.json, {stem}.md and {stem}.png to {out}", highlight=False)


def _describe(options: dict[str, Any]) -> dict[str, Any]:
    from benchmarks.machine import describe_machine, versions
    from benchmarks.peaks import measure_peaks

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "versions": versions(),
        "isa": limits.limited(),
        "settings": {key: options[key] for key in ("bits", "threads", "rounds", "engines")},
        "peaks": measure_peaks(limits.device()),
        "models": [],
    }


def _isolated(model: str, options: dict[str, Any], peaks: dict[str, float]) -> dict[str, Any]:
    """Measure in a process of its own: engines leave threads, and may end their process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(measure, model, options, peaks).result()
        except BrokenProcessPool:
            note = "the process ended: run again with fewer --engines"
            return {"name": Path(model).stem, "notes": [note], "threads": [], "rows": []}


def measure(model: str, options: dict[str, Any], peaks: dict[str, float]) -> dict[str, Any]:
    """Measure one model in this process."""
    from benchmarks.case import load_case
    from benchmarks.measure import measure_model
    from benchmarks.peers import all_contenders

    with tempfile.TemporaryDirectory() as folder:
        work, notes, path = Path(folder), [], Path(model)
        if model in zoo.NAMES and not path.is_file():
            path, notes = work / f"{model}.onnx", [zoo.NOTE]
            # torch stays out of the measuring process.
            subprocess.run(
                [sys.executable, "-m", "benchmarks.zoo", model, "-o", str(path)], check=True
            )
        data, dataset = (_for_model(options[key], path) for key in ("calibration", "dataset"))
        case = load_case(path, work / "case", data, dataset, notes)
        contenders = all_contenders(options["engines"], options["bits"])
        return measure_model(case, contenders, options["threads"], options["rounds"], peaks)


def _for_model(path: Path | None, model: Path) -> Path | None:
    """``NAME.npz`` of a folder, if there is one; a file as it is."""
    if path is None or path.is_file():
        return path
    found = path / f"{model.stem}.npz"
    return found if found.is_file() else None


if __name__ == "__main__":
    main()
