"""``tvmquant tune``: measure kernels for the layers of models."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tvmquant.cli.remote import check_options, remote_options
from tvmquant.errors import InputError, RemoteError

if TYPE_CHECKING:
    from tvmquant.schedules.workload import Workload
    from tvmquant.targets.device import Device
    from tvmquant.tuning import TuneReport
    from tvmquant.tuning.boards import Fleet
    from tvmquant.tuning.gpu import LocalGpu


@click.command()
@click.argument("model", metavar="MODEL|DIR", type=click.Path(path_type=Path))
@click.option("--trials", required=True, type=click.IntRange(1), help="For each distinct layer.")
@click.option(
    "--database", required=True, type=click.Path(path_type=Path), help="File to append to."
)
@click.option("--bits", multiple=True, help="8 (default), 4, 2, 1 or a name as w4a8; repeatable.")
@click.option("--recipe", type=click.Path(path_type=Path), help="Recipe as JSON, not with --bits.")
@click.option("--calibration", type=click.Path(path_type=Path), help=".npz, as for compile.")
@click.option(
    "--input-shape", "shapes", multiple=True, metavar="NAME=1,3,224,224", help="Repeatable."
)
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1))
@click.option("--workers", type=click.IntRange(1), help="Processes that build candidates.")
@click.option(
    "--cost-model",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "xgb", "analytic"]),
    help="auto takes XGBoost where it is installed.",
)
@click.option(
    "--metaschedule",
    default=0,
    metavar="TRIALS",
    type=click.IntRange(0),
    help="Tune light operators and 8-bit convolutions with MetaSchedule, too (slow).",
)
@click.option(
    "--target",
    help="What the devices are; by default --key where it names a target, else host.",
)
@remote_options(several=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def tune(
    model: Path,
    trials: int,
    database: Path,
    bits: tuple[str, ...],
    recipe: Path | None,
    calibration: Path | None,
    shapes: tuple[str, ...],
    threads: int,
    workers: int | None,
    cost_model: str,
    metaschedule: int,
    target: str | None,
    as_json: bool,
    **where: Any,
) -> None:
    """Measure kernels for the layers of MODEL (ONNX), a folder of ONNX models, or a compiled model
    in DIR; on this machine (with --target cuda on its GPU), or on all devices that --rpc or a
    --tracker names.

    What the file holds already is not measured again; Ctrl-C keeps what is measured. Compile with
    --database FILE to use it.
    """  # noqa: D205
    from tvmquant.cli.display import output_console, progress_bars, tuning_table
    from tvmquant.cli.files import check_output
    from tvmquant.cli.model import parse_shape
    from tvmquant.tuning import Database, Trials, tune_traces, tune_workloads
    from tvmquant.tuning.cost_model import make_cost_model

    if bits and recipe is not None:
        raise InputError(f"--bits {bits[0]} and --recipe {recipe}: give one")
    check_output(database)
    kept = Database(database)
    make_cost_model(cost_model)
    known = len(kept)
    device, fleet = _where(target, **where)
    if fleet is not None and metaschedule:
        what = "tunes for processors" if device.cuda is not None else "measures on this machine"
        raise InputError(f"--metaschedule {what}: leave it or the devices out")
    plan = Trials(trials, kept, cost_model, threads, workers)
    try:
        with progress_bars() as progress:
            options: dict[str, Any] = {
                "calibration": calibration,
                "input_shapes": dict(parse_shape(text) for text in shapes) or None,
                "progress": progress,
            }
            layers = _layers(model, device, bits or ("8",), recipe, bool(metaschedule), options)
            report = tune_workloads(layers.workloads, device, plan, progress=progress, fleet=fleet)
            if metaschedule:
                plan = replace(plan, count=metaschedule)
                traced = (layers.workloads, layers.functions, device, plan)
                report = report.merged(tune_traces(*traced, progress=progress))
    except KeyboardInterrupt:
        click.echo(
            f"interrupted: {len(kept) - known} measurements were added to {database}; the same "
            "command goes on from there",
            err=True,
        )
        sys.exit(130)
    except RemoteError as error:
        raise RemoteError(
            f"{error}; {len(kept) - known} measurements were added to {database}, the same command "
            "goes on from there"
        ) from None
    if as_json:
        click.echo(json.dumps(_to_dict(report, database), indent=2))
        return
    output_console().print(tuning_table(report))
    click.echo(f"{database}: {report}")


def _where(
    target: str | None, rpc: tuple[str, ...], tracker: str | None, key: str, timeout: float
) -> tuple[Device, Fleet | LocalGpu | None]:
    """The device to tune for, and the fleet to measure on, if not here."""
    from tvmquant.build_cuda import check_nvcc
    from tvmquant.cli.model import parse_target
    from tvmquant.targets import get_device
    from tvmquant.targets.boards import find_board
    from tvmquant.tuning.gpu import LocalGpu
    from tvmquant.tuning.model import check_runs_here

    away = check_options(rpc, tracker, key)
    if target is None:
        target = key if key and find_board(key) is not None else "host"
    device = get_device(parse_target(target))
    if not away:
        # Before the model is quantized.
        check_runs_here(device)
        return device, None if device.cuda is None else LocalGpu(timeout)
    from tvmquant.remote.address import Address
    from tvmquant.tuning.boards import Fleet

    if device.cuda is not None:
        check_nvcc()
    return device, Fleet(
        tuple(Address.of(text, "--rpc") for text in rpc),
        Address.of(tracker, "--tracker") if tracker else None,
        key,
        timeout,
    )


@dataclass
class _Layers:
    workloads: list[Workload]
    functions: list[Any]


def _layers(
    model: Path,
    device: Device,
    bits: tuple[str, ...],
    recipe: Path | None,
    light: bool,
    options: dict[str, Any],
) -> _Layers:
    from tvmquant.passes.pipeline import to_integers
    from tvmquant.quantizer import SyntheticCalibrationWarning, quantize
    from tvmquant.recipe import Recipe
    from tvmquant.runtime.bundle import MANIFEST, read_manifest
    from tvmquant.tuning.model import functions_of, workloads_of, workloads_of_manifest

    if (model / MANIFEST).is_file():
        if recipe is not None or bits != ("8",):
            raise InputError(f"{model} is compiled: its bits are fixed, leave out --bits/--recipe")
        if light:
            raise InputError(
                f"{model} holds no light operators any more: --metaschedule needs ONNX"
            )
        return _Layers(workloads_of_manifest(read_manifest(model), model), [])
    models = sorted(model.glob("*.onnx")) if model.is_dir() else [model]
    if not models:
        raise InputError(f"{model} holds neither a compiled model nor ONNX files")
    recipes = [Recipe.load(recipe)] if recipe is not None else [Recipe.for_bits(b) for b in bits]
    found = _Layers([], [])
    for path in models:
        for chosen in recipes:
            with warnings.catch_warnings():
                # Ranges do not matter for speed.
                warnings.simplefilter("ignore", SyntheticCalibrationWarning)
                quantized = quantize(path, recipe=chosen, **options)
            integers = to_integers(quantized.mod, quantized.recipe)
            found.workloads += workloads_of(integers, device)
            found.functions += functions_of(integers, device) if light else []
    return found


def _to_dict(report: TuneReport, database: Path) -> dict[str, Any]:
    from tvmquant.tuning.record import workload_to_dict

    layers = [
        {
            "workload": workload_to_dict(layer.workload),
            "default_us": None if layer.default is None else layer.default * 1e6,
            "best_us": None if layer.best is None else layer.best * 1e6,
            "rule": layer.rule,
        }
        for layer in report.layers
    ]
    return {
        "database": str(database),
        "measured": report.measured,
        "failed": report.failed,
        "median_ratio": report.median_ratio,
        "layers": layers,
    }
