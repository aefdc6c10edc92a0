"""``python -m benchmarks.accuracy``: measure, and write accuracy.json, .md and .png."""

from __future__ import annotations

import fnmatch
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.accuracy.worker import limit_threads, measure

NETWORKS = ("resnet20", "mobilenetv2", "efficientnet_lite0", "ppocrv4_rec", "minilm_l3")
# What is worth its time on networks that take tens of seconds a row.
SLOW = ("recipes/default", "recipes/fast", "recipes/standard_ptq", "recipes/data_free")
SLOW_METHODS = {
    "efficientnet_lite0": (*SLOW, "recipes/dynamic", "per channel/*AdaRound", "peers/*"),
    "ppocrv4_rec": (*SLOW, "recipes/dynamic", "recipes/weight_only", "recipes/float16"),
    "minilm_l3": (*SLOW, "recipes/dynamic", "recipes/weight_only", "recipes/float16"),
}
SLOW_BITS = ("w8a8", "w4a8", "w8a16", "w4a16", "w16a16")
Existing = click.Path(exists=True, path_type=Path)


@click.command(context_settings={"show_default": True})
@click.option(
    "--network", "names", multiple=True, type=click.Choice(NETWORKS), help="Default: all."
)
@click.option("--methods", default="*", help="Patterns of SECTION/NAME, comma-separated.")
@click.option("--bits", default="", help="Only these precisions, comma-separated.")
@click.option("--draws", default=5, type=click.IntRange(1), help="Calibration draws at most.")
@click.option("--quick", is_flag=True, help="One draw and a fifth of the test data.")
@click.option("--jobs", default=1, type=click.IntRange(1), help="Processes, of one thread each.")
@click.option("--shared", default=Path("../shared"), type=click.Path(path_type=Path))
@click.option("--models", type=Existing, help="Folder of fetched models; default SHARED/models.")
@click.option("--data", type=Existing, help="fashion_mnist.npz; default SHARED/data.")
@click.option("--minutes", type=float, help="Start nothing after so long; the rest is left out.")
@click.option("--fresh", is_flag=True, help="Measure again what the folder has already.")
@click.option("-o", "out", default=Path("benchmarks/results"), type=click.Path(path_type=Path))
def main(
    names: tuple[str, ...],
    methods: str,
    bits: str,
    draws: int,
    quick: bool,
    jobs: int,
    shared: Path,
    models: Path | None,
    data: Path | None,
    minutes: float | None,
    fresh: bool,
    out: Path,
) -> None:
    """Measure what every method of quantization loses against float."""
    limit_threads()
    from benchmarks.accuracy.report import in_order, key, write

    console = Console()
    console = console if console.is_terminal else Console(width=110)
    draws = 1 if quick else draws
    patterns = [part.strip() for part in methods.split(",") if part.strip()]
    wanted = [part.strip() for part in bits.split(",") if part.strip()]
    places = (
        shared,
        models or shared / "models",
        data or shared / "data" / "fashion_mnist.npz",
    )
    report = _begin(names or NETWORKS, places, quick, draws, console)
    old = {} if fresh else {key(row): row for row in _old_rows(out, report["settings"])}
    with tempfile.TemporaryDirectory() as work:
        tasks = _tasks(report["networks"], patterns, wanted)
        order = [where for where, _ in tasks]
        todo = []
        for where, task in tasks:
            scores = tuple(old.get(where, {}).get("scores", ()))
            if missing := task["draws"][len(scores) :]:
                more = {"scores": scores, "places": (*places, Path(work)), "quick": quick}
                todo.append((where, {**task, **more, "draws": missing}))
        rows, done = dict(old), 0
        start = saved = time.monotonic()
        for where, row in _measured(todo, jobs, minutes, console):
            if row["seconds"] or where not in old:
                rows[where] = row
                done += 1
            if time.monotonic() - saved > 60:
                # What is measured survives an interruption.
                report["rows"] = in_order(rows.values(), order)
                write(report, out)
                saved = time.monotonic()
    report["minutes"] = round((time.monotonic() - start) / 60, 1)
    report["rows"] = in_order(rows.values(), order)
    write(report, out)
    _show(report, console)
    done = f"{done} of {len(todo)} rows in {report['minutes']} min"
    console.print(f"{done}; wrote accuracy.* to {out}")


def _begin(
    names: tuple[str, ...],
    places: tuple[Path, Path, Path],
    quick: bool,
    draws: int,
    console: Console,
) -> dict[str, Any]:
    from benchmarks.accuracy import networks
    from benchmarks.machine import describe_machine, versions
    from benchmarks.peers.base import Unavailable

    found = {}
    for name in names:
        try:
            network = networks.load(name, *places, quick)
        except Unavailable as error:
            console.print(f"{name}: left out, {error}", highlight=False)
            continue
        found[name] = {
            "metric": network.metric,
            "about": network.about,
            "float": network.float_score,
            "draws": draws,
        }
        console.print(f"{name}: float {found[name]['float']:.2f}; {network.about}", highlight=False)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "versions": versions(),
        "settings": {"quick": quick, "draws": draws},
        "networks": found,
        "rows": [],
    }


def _old_rows(out: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    path = out / "accuracy.json"
    if not path.exists():
        return []
    old = json.loads(path.read_text(encoding="utf-8"))
    return old["rows"] if old.get("settings") == settings else []


def _tasks(
    networks: dict[str, dict[str, Any]], patterns: list[str], wanted: list[str]
) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """Everything to measure, in the order of the table: key of the row and fields of the task."""
    from benchmarks.accuracy.methods import table
    from benchmarks.accuracy.peers import Peer, peers

    tasks = []
    for name in networks:
        slow = SLOW_METHODS.get(name)
        for row in (*table(), *peers()):
            if isinstance(row, Peer) and name not in row.networks:
                continue
            if slow and not any(fnmatch.fnmatchcase(row.key, pattern) for pattern in slow):
                continue
            if not any(fnmatch.fnmatchcase(row.key, pattern) for pattern in patterns):
                continue
            for bits in row.bits:
                if (wanted and bits not in wanted) or (slow and bits not in SLOW_BITS):
                    continue
                count = networks[name]["draws"] if getattr(row, "data", True) else 1
                task = {
                    "network": name,
                    "method": row.key,
                    "bits": bits,
                    "draws": tuple(range(count)),
                }
                tasks.append(((name, row.section, row.name, bits), task))
    return tasks


def _measured(
    todo: list[tuple[tuple[str, ...], dict[str, Any]]],
    jobs: int,
    minutes: float | None,
    console: Console,
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Rows as they come: those of the targets first, then by precision: kernels are met again."""
    from benchmarks.accuracy.report import OURS
    from benchmarks.accuracy.run import Task

    def place(item: tuple[tuple[str, ...], dict[str, Any]]) -> tuple:
        (network, section, name, bits), _ = item
        first = f"{section}/{name}" == OURS or section == "peers"
        return (not first, section in ("activations", "weights"), network, bits)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    end = time.monotonic() + 60 * minutes if minutes else float("inf")
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("rows", total=len(todo))
        queue = iter([(where, Task(**task)) for where, task in sorted(todo, key=place)])
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context, initializer=limit_threads) as pool:
            running: dict[Any, tuple[str, ...]] = {}
            while True:
                while len(running) < jobs and time.monotonic() < end and (one := next(queue, None)):
                    running[pool.submit(measure, one[1])] = one[0]
                if not running:
                    break
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    where, row = running.pop(done), done.result()
                    _say(where, row, progress)
                    progress.advance(bar)
                    yield where, row


def _say(where: tuple[str, ...], row: dict[str, Any], progress: Progress) -> None:
    from benchmarks.accuracy.report import cell

    spent = " ".join(f"{k} {v:.1f}" for k, v in (row["seconds"] or {}).items())
    progress.console.print(f"{' '.join(where)}: {cell(row)}  {spent}", highlight=False)


def _show(report: dict[str, Any], console: Console) -> None:
    from rich.table import Table

    from benchmarks.accuracy.report import targets

    columns = ("network", "bits", "target", "measured", "met", "behind best other tool")
    shown = Table(*columns, title="Targets")
    for row in targets(report["rows"]):
        behind = row["behind_peer"]
        shown.add_row(
            row["network"],
            row["bits"],
            f"{row['what']} {row['target']}",
            f"{row['measured']:.2f} ± {row['spread']:.2f}",
            "yes" if row["met"] else "no",
            "" if behind is None else f"{behind:+.2f} ({row['peer']})",
        )
    console.print(shown)


if __name__ == "__main__":
    sys.exit(main())
