"""``tvmquant export``: a folder that runs on a device without Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tvmquant.cli.model import model_options, model_settings, parse_target, target_option
from tvmquant.errors import InputError


@click.command()
@click.argument("source", metavar="DIR|MODEL", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write."
)
@target_option(default=None)
@click.option(
    "--runtime",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with libtvm_runtime.so and libtvm_ffi.so; by default out of the wheels.",
)
@click.option("--no-runtime", is_flag=True, help="Leave the runtime out: the device has it.")
@click.option("--static", is_flag=True, help="Link the model into the program.")
@model_options
def export(
    source: Path,
    output: Path,
    target: str | None,
    runtime: Path | None,
    no_runtime: bool,
    static: bool,
    **options: Any,
) -> None:
    """Make a folder that runs on a device without Python.

    Of a compiled model (DIR), or of an ONNX model, which is compiled first.
    """
    import tvmquant
    from tvmquant.cli.display import progress_bars
    from tvmquant.runtime.export import export_bundle, exported_bytes
    from tvmquant.runtime.save import check_destination

    if runtime is not None and no_runtime:
        raise InputError("--runtime and --no-runtime: give one")
    if static and no_runtime:
        raise InputError("--static links with the runtime: leave --no-runtime away")
    where = False if no_runtime else True if runtime is None else runtime
    settings = model_settings(**options)
    chosen = None if target is None else parse_target(target)
    check_destination(output)
    with progress_bars() as progress:
        if source.is_dir():
            given = sorted(
                f"--{name}".replace("shapes", "input-shape") for name in options if options[name]
            )
            if given:
                raise InputError(f"{source} is compiled already: leave {', '.join(given)} away")
            model = _compiled(source, chosen)
        else:
            model = tvmquant.compile(source, target=chosen or "host", progress=progress, **settings)
        progress("export", 0, 1)
        export_bundle(model, output, runtime=where, static=static)
        progress("export", 1, 1)
    manifest = model.manifest
    size = exported_bytes(output)
    click.echo(f"{output}: {manifest.precision} for {manifest.target}, {size:,} bytes")


def _compiled(folder: Path, target: Any) -> Any:
    from tvmquant.runtime.opening import open_bundle
    from tvmquant.targets import get_device

    model = open_bundle(folder)
    device = None if target is None else get_device(target)
    if device is not None and device.target_json != model.manifest.target_json:
        raise InputError(
            f"{folder} was compiled for {model.manifest.target}, not for {device.name}: compile it "
            f"with --target {device.name}"
        )
    return model
