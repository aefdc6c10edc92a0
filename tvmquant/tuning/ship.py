"""Make the databases that ship: ``python -m tvmquant.tuning.ship``, on an otherwise idle machine.

Tunes the common layers into a work file (which an interrupted run goes on from) and writes the
best and the default choice of each into ``tvmquant/assets/tuned/<instruction set>.jsonl``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import click

from tvmquant.cli.display import progress_bars
from tvmquant.errors import InputError
from tvmquant.schedules.workload import Workload
from tvmquant.targets.device import Device, get_device
from tvmquant.tuning.active import shipped_path
from tvmquant.tuning.candidates import candidates
from tvmquant.tuning.common_layers import NETWORKS, PRECISIONS, common_layers
from tvmquant.tuning.database import Database
from tvmquant.tuning.model import tune_workloads
from tvmquant.tuning.record import Record, instruction_set
from tvmquant.tuning.trials import Trials, TuneReport

# The median layer's default may take so many times as long as its best kernel.
MOST = 1.5
_WORST = 5
_AVX512 = ("avx512vnni", "avx512vpopcntdq", "avx512vbmi", "avx512vl", "avx512bw", "avx512f")


def device_with(isa: str) -> Device:
    """The machine this runs on, using nothing better than ``isa``; its GPU for ``cuda``.

    Raises
    ------
    InputError
        If it cannot do even that.
    """
    if isa.startswith("cuda"):
        gpu = get_device("cuda")
        if isa in ("cuda", instruction_set(gpu)):
            return gpu
        raise InputError(f"the GPU of this machine cannot tune for {isa}: it is {gpu.cuda.name}")
    host = get_device("host")
    lesser = {"avx_vnni": _AVX512, "avx2": (*_AVX512, "avxvnni")}
    there = [name for name in lesser.get(isa, ()) if name in host.features]
    device = host.without(*there) if there else host
    if isa == "host" or instruction_set(device) == isa:
        return device
    raise InputError(f"this machine cannot tune for {isa}, it is {instruction_set(host)}")


def proof_matters(isa: str) -> bool:
    """Whether kernels of the instruction set depend on ``Workload.no_saturation``."""
    return isa in ("avx2", "sse")


def variants(workloads: Iterable[Workload], isa: str) -> list[Workload]:
    """The workloads, and those whose weights prove more where that changes the kernel."""
    found = list(workloads)
    if proof_matters(isa):
        found += [
            replace(w, no_saturation=True)
            for w in found
            if w.w_bits == 8 and not w.op.startswith("depthwise")
        ]
    return found


def batched(workloads: Iterable[Workload], sizes: Iterable[int]) -> list[Workload]:
    """Workloads of one image as those of several."""
    return [
        replace(w, x_shape=(size * w.x_shape[0], *w.x_shape[1:]))
        for size in sizes
        for w in workloads
    ]


def essence(database: Database, workloads: Iterable[Workload], device: Device) -> list[Record]:
    """Of each workload the best record and that of the default."""
    kept = []
    for workload in workloads:
        default = candidates(workload, device)[0].key
        records = [r for r in database.measured(workload, device) if r.seconds is not None]
        records.sort(key=lambda record: record.seconds)
        own = [record for record in records if record.key == default][:1]
        if own:
            kept += [records[0], *(record for record in own if record is not records[0])]
    return [replace(record, seconds=float(f"{record.seconds:.4g}")) for record in kept]


def verdict(report: TuneReport) -> Iterator[str]:
    """How good the default rules are, and where they are worst."""
    ranked = sorted((layer for layer in report.layers if layer.ratio), key=lambda x: -x.ratio)
    good = "as it must be" if report.median_ratio <= MOST else f"above {MOST}: the models are off"
    yield f"default over tuned: median {report.median_ratio:.3f} of {len(ranked)} layers, {good}"
    for layer in ranked[:_WORST]:
        w = layer.workload
        yield (
            f"  {layer.ratio:.2f}x {w.op} {w.x_shape} x {w.w_shape} w{w.w_bits}a{w.x_bits}: best "
            f"is {layer.rule.rpartition('.')[2]}"
        )
    missing = len(report.layers) - len(ranked)
    if missing:
        yield f"{missing} layers were not measured: run again with the same --work"


@click.command()
@click.option("--isa", default="host", show_default=True, help="Or avx2, avx_vnni, cuda.")
@click.option("--trials", default=6, show_default=True, type=click.IntRange(2))
@click.option("--network", "networks", multiple=True, type=click.Choice(list(NETWORKS)))
@click.option("--precision", "precisions", multiple=True, type=click.Choice(PRECISIONS))
@click.option("--batch", "batches", multiple=True, default=[1], type=click.IntRange(1))
@click.option(
    "--work", required=True, type=click.Path(path_type=Path), help="All measurements; kept."
)
@click.option("--output", type=click.Path(path_type=Path), help="Instead of the package's file.")
def main(
    isa: str,
    trials: int,
    networks: tuple[str, ...],
    precisions: tuple[str, ...],
    batches: tuple[int, ...],
    work: Path,
    output: Path | None,
) -> None:
    """Tune the common layers and write the database that ships."""
    device = device_with(isa)
    isa = instruction_set(device)
    chosen = common_layers(networks or tuple(NETWORKS), precisions or PRECISIONS)
    workloads = batched(variants(chosen, isa), batches)
    database = Database(work)
    with progress_bars() as progress:
        report = tune_workloads(workloads, device, Trials(trials), database, progress)
    path = output or shipped_path(isa)
    path.parent.mkdir(parents=True, exist_ok=True)
    records = essence(database, workloads, device)
    part = path.with_name(f".{path.name}.part")
    part.write_text("".join(f"{record.to_json()}\n" for record in records), encoding="utf-8")
    part.replace(path)
    click.echo(f"{path}: {len(records)} records; {report}")
    for line in verdict(report):
        click.echo(line)


if __name__ == "__main__":
    warnings.simplefilter("default")
    main()
