"""``tvmquant devices``: what can be compiled for."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import click

from tvmquant.cli.remote import show_fleet


@click.command()
@click.option("--tracker", metavar="HOST:PORT", help="List what is registered there instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def devices(tracker: str | None, as_json: bool) -> None:
    """List the devices that --target knows, and which bits make a layer faster on each.

    The columns of bits say how much work a 3×3 convolution of 64 to 64 channels is, next to its
    8-bit version, by the models that choose kernels: cycles, on ARM instructions. For GPUs a
    feature is an integer that tensor cores multiply, and a core is a multiprocessor; code for
    them is compiled here, it has not been measured.
    """
    from tvmquant.cli.display import output_console

    if tracker is not None:
        show_fleet(tracker, as_json)
        return
    found = known_devices()
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        output_console().print(_table(found))


def known_devices() -> list[dict[str, Any]]:
    """Everything about every named device, as plain data."""
    from tvmquant.errors import TargetError
    from tvmquant.runtime.gpu import local_gpu
    from tvmquant.schedules.payoff import payoffs
    from tvmquant.targets import get_device
    from tvmquant.targets.boards import ALIASES, BOARDS
    from tvmquant.targets.cuda import ARCHES
    from tvmquant.tuning import active_database

    named: list[tuple[str, str, bool]] = [("host", "this machine", True)]
    gpu = local_gpu()
    if gpu is not None:
        with suppress(TargetError):  # too old
            get_device("cuda")
            named.append(("cuda", f"{gpu.name} of this machine", False))
    for board in BOARDS:
        also = [alias for alias, name in ALIASES.items() if name == board.name]
        about = board.about + "".join(f"; also {alias}" for alias in also)
        named.append((board.name, about, board.tested))
        named += [(f"{board.name}+{extra}", about, board.tested) for extra in board.optional]
    named += [(f"cuda-{arch.name}", arch.about, False) for arch in ARCHES.values()]
    found = []
    for name, about, tested in named:
        device = get_device(name)
        gains = payoffs(device, active_database(None, device))
        found.append(
            {
                "name": name,
                "about": about,
                **_processor(device),
                "instruction_set": device.isa,
                "tested": tested,
                "work": {gain.precision: gain.work for gain in gains},
                "kernels": {gain.precision: gain.kernel for gain in gains},
                "pays": [gain.precision for gain in gains if gain.pays],
            }
        )
    return found


def _processor(device: Any) -> dict[str, Any]:
    arch = device.cuda
    if arch is None:
        return {
            "processor": device.target.attrs.get("mcpu", ""),
            "features": sorted(device.features),
            "num_cores": device.num_cores,
        }
    # What its tensor cores multiply; the processor beside it is of no interest here.
    bits = {"U8S8": "int8", "U4S4": "int4", "BITS_XOR": "int1", "BITS_AND": "int1"}
    features = list(dict.fromkeys(bits[product] for product in arch.products))
    cores = arch.multiprocessors
    return {"processor": arch.name, "features": features, "num_cores": cores}


def _untested(device: dict[str, Any]) -> str:
    if device["tested"]:
        return ""
    gpu = device["instruction_set"] == "cuda"
    return " (compile-only, not yet measured)" if gpu else " (untested)"


def _table(found: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    precisions = list(found[0]["work"])
    table = Table(title="work of a layer, relative to w8a8")
    for header in ("target", "device", "processor", "features"):
        table.add_column(header, overflow="fold")
    table.add_column("cores", justify="right")
    for precision in precisions:
        table.add_column(precision, justify="right", no_wrap=True)
    for device in found:
        ratios = (device["work"][precision] for precision in precisions)
        table.add_row(
            device["name"],
            device["about"] + _untested(device),
            str(device["processor"]),
            " ".join(device["features"]) or "-",
            str(device["num_cores"]),
            *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
        )
    return table
