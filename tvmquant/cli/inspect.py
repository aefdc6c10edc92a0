"""``tvmquant inspect``: what is in a compiled model, and where a model loses accuracy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tvmquant.cli.model import model_options, model_settings
from tvmquant.errors import InputError


@click.command()
@click.argument("path", metavar="DIR|MODEL", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--sensitivity", is_flag=True, help="SQNR, clipping and ranges of every layer, worst first."
)
@click.option(
    "--float",
    "float_model",
    metavar="MODEL",
    type=click.Path(path_type=Path),
    help="With --sensitivity of a DIR: the ONNX model that it was compiled from.",
)
@click.option(
    "--samples",
    type=click.IntRange(1),
    help="With --sensitivity: samples of the calibration data to measure on, 16 by default.",
)
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="With --sensitivity: write one page with plots.",
)
@model_options
def inspect(
    path: Path,
    as_json: bool,
    sensitivity: bool,
    float_model: Path | None,
    samples: int | None,
    html: Path | None,
    **options: Any,
) -> None:
    """List the layers and sizes of a compiled model DIR.

    With --sensitivity: quantize MODEL (ONNX) as compile does, and say what every layer does to
    its output; or compare a compiled model DIR with the model given as --float.
    """
    if sensitivity:
        _sensitivity(path, as_json, float_model, samples, html, options)
        return
    given = {"--float": float_model, "--samples": samples, "--html": html}
    given.update({f"--{name.replace('_', '-')}": value for name, value in options.items()})
    for name, value in given.items():
        if value:
            name = "--input-shape" if name == "--shapes" else name
            raise InputError(f"{name} is for inspect --sensitivity")
    _layers(path, as_json)


def _layers(folder: Path, as_json: bool) -> None:
    from tvmquant.cli.display import layer_table, output_console
    from tvmquant.runtime.bundle import bundle_bytes, read_manifest

    manifest, size = read_manifest(folder), bundle_bytes(folder)
    if as_json:
        click.echo(json.dumps({"library_bytes": size, **manifest.to_dict()}, indent=2))
        return
    output_console().print(layer_table(manifest))
    click.echo(f"source     {manifest.source or '-'}")
    click.echo(f"precision  {manifest.precision}")
    click.echo(f"target     {manifest.target} ({' '.join(manifest.features) or 'no features'})")
    if manifest.cuda_archs:
        click.echo(f"code for   {' '.join(manifest.cuda_archs)}")
    click.echo(f"inputs     {'; '.join(map(str, manifest.inputs))}")
    click.echo(f"outputs    {'; '.join(map(str, manifest.outputs))}")
    click.echo(f"size       {size:,} bytes, of which constants {manifest.weight_bytes:,}")


def _sensitivity(
    path: Path,
    as_json: bool,
    float_model: Path | None,
    samples: int | None,
    html: Path | None,
    options: dict[str, Any],
) -> None:
    from tvmquant.analysis.html import check_report_packages
    from tvmquant.analysis.sensitivity import SAMPLES
    from tvmquant.cli.display import output_console, progress_bars
    from tvmquant.cli.files import check_output

    # Everything cheap is checked before the work starts.
    if path.is_dir() and float_model is None:
        raise InputError(
            f"{path} is a compiled model, which holds no float weights: add --float MODEL.onnx, "
            "the model that it was compiled from, or give the ONNX model instead"
        )
    if float_model is not None and not path.is_dir():
        raise InputError(f"--float is for a compiled model, {path} is no folder")
    if options["calibration"] is None:
        raise InputError("--sensitivity is measured on real inputs: add --calibration X.npz")
    if float_model is not None and (options["bits"] or options["recipe"]):
        raise InputError("a compiled model has its bits and its recipe: leave --bits and --recipe")
    settings = model_settings(**options)
    settings.pop("database")
    settings["samples"] = samples or SAMPLES
    if html is not None:
        check_output(html)
        check_report_packages()
    with progress_bars() as progress:
        report = _report(path, float_model, {**settings, "progress": progress})
        if html is not None:
            progress("report", 0, 1)
            report.to_html(html)
            progress("report", 1, 1)
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
        return
    output_console().print(report.table())
    for hint in report.hints():
        click.echo(f"hint       {hint}")
    if html is not None:
        click.echo(f"report     {html}")


def _report(path: Path, float_model: Path | None, settings: dict[str, Any]) -> Any:
    import tvmquant
    from tvmquant.analysis import sensitivity

    if float_model is None:
        return sensitivity(path, **settings)
    data = settings.pop("calibration")
    for name in ("bits", "recipe", "input_shapes"):
        settings.pop(name)
    return tvmquant.load(path).debug(float_model, data, **settings)
