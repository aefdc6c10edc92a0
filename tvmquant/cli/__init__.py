"""The command line: ``tvmquant compile | tune | run | bench | export | devices | …``.

Exit codes: 0 done, 1 failed, 2 bad input (one line on stderr, no traceback).
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import click

from tvmquant import __version__
from tvmquant.cli.devices import devices
from tvmquant.cli.export import export
from tvmquant.cli.inspect import inspect
from tvmquant.cli.model import (
    model_options,
    model_settings,
    parse_fatbin,
    parse_target,
    target_option,
)
from tvmquant.cli.remote import opened, remote_options, serve, tracker
from tvmquant.errors import InputError, TvmQuantError

# TVM, NumPy and rich are imported inside the commands: --help must not wait for them.


class _Group(click.Group):
    """Turns the errors of tvmquant into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except InputError as error:
            _fail(error, 2)
        except (TvmQuantError, MemoryError) as error:
            _fail(error, 1)


def _fail(error: BaseException, code: int) -> None:
    text = " ".join(str(error).split()) or type(error).__name__
    click.echo(f"error: {text}", err=True)
    sys.exit(code)


def _show_warning(message: Any, *_where: Any, **_more: Any) -> None:
    click.echo(f"warning: {' '.join(str(message).split())}", err=True)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tvmquant")
def main() -> None:
    """Quantize a trained network to 8, 4, 2 or 1 bits and compile it to an integer program."""


@main.command()
@click.option("--json", "name", metavar="NAME", help="Print this one as JSON, to change it.")
@click.option("--bits", help="With --json: its precision.")
def recipes(name: str | None, bits: str | None) -> None:
    """List the recipes that have names."""
    from rich.table import Table

    from tvmquant.cli.display import output_console
    from tvmquant.recipes import RECIPES, find_recipe

    if name is not None:
        click.echo(find_recipe(name, bits).to_json())
        return
    if bits is not None:
        raise InputError("--bits is for recipes --json NAME")
    table = Table("recipe", "bits", "what it does")
    for recipe in RECIPES.values():
        table.add_row(recipe.name, recipe.bits, recipe.summary)
    output_console().print(table)


@main.command("compile")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write."
)
@target_option()
@click.option(
    "--fatbin",
    metavar="sm_80,sm_90",
    help="For a CUDA target: machine code for these architectures as well, of kernels that all "
    "of them run without emulation.",
)
@click.option(
    "--max-drop",
    type=click.FloatRange(0),
    help="Raise layers to 8 bits until no more is lost on --dataset: percentage points of top-1 "
    "below float; without labels dB of SQNR below 8 bits everywhere.",
)
@click.option(
    "--dataset",
    type=click.Path(path_type=Path),
    help="For --max-drop: .npz with x (or arrays by input name) and y.",
)
@click.option(
    "--save-recipe", metavar="FILE", type=click.Path(path_type=Path), help="Write what was used."
)
@model_options
def compile_command(
    model: Path,
    output: Path,
    target: str,
    fatbin: str | None,
    max_drop: float | None,
    dataset: Path | None,
    save_recipe: Path | None,
    **options: Any,
) -> None:
    """Quantize and compile MODEL (ONNX) into a folder."""
    import tvmquant
    from tvmquant.cli.display import output_console, progress_bars
    from tvmquant.cli.files import check_output, write_text
    from tvmquant.runtime.bundle import bundle_bytes
    from tvmquant.runtime.save import check_destination

    # Everything cheap is checked before the work starts.
    settings = model_settings(**options)
    parsed_target = parse_target(target)
    settings["fatbin"] = parse_fatbin(fatbin, parsed_target)
    check_destination(output)
    if (max_drop is None) != (dataset is None):
        raise InputError("--max-drop and --dataset belong together: give both or neither")
    if save_recipe is not None:
        check_output(save_recipe)
    settings.update(max_drop=max_drop, dataset=dataset)
    with progress_bars() as progress:
        compiled = tvmquant.compile(model, target=parsed_target, progress=progress, **settings)
        progress("save", 0, 1)
        compiled.save(output)
        progress("save", 1, 1)
    manifest = compiled.manifest
    if save_recipe is not None:
        write_text(save_recipe, json.dumps(manifest.recipe, indent=2) + "\n")
    report = compiled.max_drop_report
    if report is not None and report.raised:
        output_console().print(report.table())
    elif report is not None:
        click.echo(str(report))
    several = f" ({' '.join(manifest.cuda_archs)})" if len(manifest.cuda_archs) > 1 else ""
    click.echo(
        f"{output}: {manifest.precision} for {manifest.target}{several}, "
        f"{len(manifest.layers)} layers, "
        f"{bundle_bytes(output):,} bytes"
    )


@main.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--inputs", required=True, type=click.Path(path_type=Path), help=".npz by name.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help=".npz.")
@remote_options()
def run(folder: Path, inputs: Path, output: Path, **where: Any) -> None:
    """Run a compiled model once on the arrays of an .npz file, here or on another machine."""
    from tvmquant.cli.files import check_output, read_npz, write_npz

    check_output(output)
    arrays = read_npz(inputs)
    with opened(folder, **where) as model:
        results = model.run(arrays)
    write_npz(output, results)
    for info in model.outputs:
        click.echo(f"{output}: {info}")


@main.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1))
@click.option("--repeats", default=50, show_default=True, type=click.IntRange(1))
@click.option("--warmup", default=5, show_default=True, type=click.IntRange(0))
@click.option("--inputs", type=click.Path(path_type=Path), help=".npz by name; noise by default.")
@click.option("--profile", is_flag=True, help="Time of every layer as well.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@remote_options()
def bench(
    folder: Path,
    threads: int,
    repeats: int,
    warmup: int,
    inputs: Path | None,
    profile: bool,
    as_json: bool,
    **where: Any,
) -> None:
    """Time a compiled model on this machine or on another one."""
    from tvmquant.cli.display import output_console, progress_bars
    from tvmquant.cli.files import read_npz
    from tvmquant.runtime.threads import pool_size

    # Read when the pool starts, and a pool cannot grow afterwards.
    if pool_size() < threads <= (os.cpu_count() or 1):
        os.environ["TVM_NUM_THREADS"] = str(threads)
    arrays = read_npz(inputs) if inputs is not None else None
    with opened(folder, **where) as model:
        with progress_bars() as progress:
            result = model.benchmark(
                arrays, warmup=warmup, repeats=repeats, threads=threads, progress=progress
            )
        layers = None
        if profile:
            layers = model.profile(arrays, repeats=min(repeats, 20), threads=threads)
    if as_json:
        data = result.to_dict()
        if layers is not None:
            data["profile"] = layers.to_dict()
        click.echo(json.dumps(data, indent=2))
        return
    click.echo(str(result))
    if layers is not None:
        output_console().print(layers.table())


@main.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--dataset", required=True, type=click.Path(path_type=Path), help=".npz with x and y."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(folder: Path, dataset: Path, as_json: bool) -> None:
    """Measure top-1 accuracy on x (samples first) and y (class numbers)."""
    import tvmquant
    from tvmquant.cli.display import progress_bars
    from tvmquant.cli.files import read_npz
    from tvmquant.runtime.accuracy import top1

    arrays = read_npz(dataset)
    missing = sorted({"x", "y"} - set(arrays))
    if missing:
        raise InputError(
            f"{dataset} lacks the array {', '.join(missing)} (it has "
            f"{', '.join(arrays) or 'none'}): save x and y"
        )
    model = tvmquant.load(folder)
    with progress_bars() as progress:
        accuracy = top1(model, arrays["x"], arrays["y"], progress=progress)
    samples = len(arrays["y"])
    if as_json:
        click.echo(json.dumps({"top1": accuracy, "samples": samples}))
    else:
        click.echo(f"top-1 {accuracy:.2%} on {samples:,} samples")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def demo(as_json: bool) -> None:
    """Compare all precisions on a bundled model.

    Top-1, file size, latency and speed-up over float, of a Fashion-MNIST classifier.
    """
    from tvmquant.cli.display import output_console, progress_bars
    from tvmquant.demo import run_demo

    with progress_bars() as progress:
        result = run_demo(progress)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
    else:
        output_console().print(result.table())


# At the end: a command's module may import from this one.
from tvmquant.cli.tune import tune  # noqa: E402

for _command in (tune, inspect, export, devices, serve, tracker):
    main.add_command(_command)
