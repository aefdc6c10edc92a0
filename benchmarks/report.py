"""The results as tables: on the terminal, as Markdown, as JSON."""

from __future__ import annotations

from typing import Any

from rich.table import Table

OURS = "tvmquant"


def best_int8_peer(model: dict[str, Any], threads: int) -> dict[str, Any] | None:
    """Fastest int8 contender other than tvmquant that keeps to the limit, at so many threads."""
    peers = [
        row
        for row in model["rows"]
        if row["engine"] != OURS
        and row["precision"] == "int8"
        and row.get("obeys", True)
        and str(threads) in row["times"]
    ]
    return min(peers, key=lambda row: cost(row, threads), default=None)


def cost(row: dict[str, Any], threads: int) -> float:
    """Milliseconds that count: CPU time of one thread, wall time of several."""
    kind = "cpu" if threads == 1 else "wall"
    return row["times"][str(threads)][kind]["median"]


def speedup(model: dict[str, Any], row: dict[str, Any], threads: int) -> float | None:
    """How many times faster than the best int8 peer."""
    best = best_int8_peer(model, threads)
    if best is None or str(threads) not in row["times"]:
        return None
    return cost(best, threads) / cost(row, threads)


def scaling(row: dict[str, Any], threads: int) -> float | None:
    """Wall time of one thread by that of several."""
    times = row["times"]
    if "1" not in times or str(threads) not in times:
        return None
    return times["1"]["wall"]["median"] / times[str(threads)]["wall"]["median"]


def columns(model: dict[str, Any]) -> list[str]:
    """Headers of a model's table."""
    headers = ["engine"]
    for threads in model["threads"]:
        if threads == 1:
            headers += ["1 thread, CPU ms", "p10–p90", "wall ms", "× best int8 peer"]
        else:
            headers += [f"{threads} threads, wall ms", "p10–p90", "× best int8 peer", "× 1 thread"]
    headers.append("cosine")
    if _has_top1(model):
        headers.append("top-1")
    return [*headers, "build s", "load s", "memory MB", "model MB"]


def cells(model: dict[str, Any], row: dict[str, Any]) -> list[str]:
    """One contender's line, in the order of :func:`columns`."""
    line = [shown(row)]
    for threads in model["threads"]:
        times = row["times"].get(str(threads))
        if times is None:
            line += [""] * 4
            continue
        spread = times["cpu" if threads == 1 else "wall"]
        line += [f"{spread['median']:.2f}", f"{spread['p10']:.2f}–{spread['p90']:.2f}"]
        ratio = number(speedup(model, row, threads))
        wall = f"{times['wall']['median']:.2f}"
        line += [wall, ratio] if threads == 1 else [ratio, number(scaling(row, threads))]
    line.append(number(row.get("cosine"), 4))
    if _has_top1(model):
        line.append("" if row.get("top1") is None else f"{row['top1']:.1%}")
    line += [number(row.get("build_s"), 1), number(row.get("load_s"))]
    return [*line, number(row.get("memory_mb"), 0), number(row.get("model_mb"), 1)]


def shown(row: dict[str, Any]) -> str:
    """Name of a contender, with a word about one that uses more of the processor."""
    return row["name"] if row.get("obeys", True) else f"{row['name']} (not limited)"


def number(value: float | None, digits: int = 2) -> str:
    """Fixed digits; empty for nothing."""
    return "" if value is None else f"{value:.{digits}f}"


def _has_top1(model: dict[str, Any]) -> bool:
    return any(row.get("top1") is not None for row in model["rows"])


def in_order(model: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows with times, tvmquant first, then by time."""
    first = next(iter(model["threads"]), 1)
    done = [row for row in model["rows"] if str(first) in row["times"]]
    return sorted(done, key=lambda row: (row["engine"] != OURS, cost(row, first)))


def absent(model: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and reason of who did not take part."""
    return [(row["name"], row["reason"]) for row in model["rows"] if "reason" in row]


def model_table(model: dict[str, Any]) -> Table:
    """A rich table that fits a terminal; absent engines below."""
    missing = "\n".join(f"{name}: {reason}" for name, reason in absent(model))
    table = Table(title=model["name"], caption=missing or None, caption_justify="left")
    table.add_column("engine")
    headers = []
    for threads in model["threads"]:
        kind = "CPU ms" if threads == 1 else "wall ms"
        headers += [f"{threads}t {kind}", "p10–p90", "× int8"]
    for header in (*headers, "cosine", *(["top-1"] if _has_top1(model) else [])):
        table.add_column(header, justify="right", no_wrap=True)
    for row in in_order(model):
        style = "bold" if row["engine"] == OURS else None
        table.add_row(*_terminal_cells(model, row), style=style)
    return table


def _terminal_cells(model: dict[str, Any], row: dict[str, Any]) -> list[str]:
    full = dict(zip(columns(model), cells(model, row)))
    line = [shown(row)]
    for threads in model["threads"]:
        if str(threads) not in row["times"]:
            line += [""] * 3
            continue
        spread = row["times"][str(threads)]["cpu" if threads == 1 else "wall"]
        line += [number(spread["median"]), f"{spread['p10']:.2f}–{spread['p90']:.2f}"]
        line.append(number(speedup(model, row, threads)))
    return line + [full[key] for key in ("cosine", "top-1") if key in full]


def machine_text(report: dict[str, Any]) -> str:
    """Machine, versions and peaks, one line each."""
    machine = report["machine"]
    peaks = ", ".join(f"{name} {value:.0f}" for name, value in report["peaks"].items())
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    load = "/".join(map(str, machine["load_average"]))
    return "\n".join(
        [
            f"Machine: {machine['cpu']}, {machine['physical_cores']} cores, "
            f"{machine['memory_gb']} GB, {machine['system']}; load {load} at the start",
            f"Instruction set: {machine['isa']} ({', '.join(machine['features'])})",
            f"Peaks of one thread, GOP/s: {peaks or 'none measured'}",
            f"Versions: {versions}",
        ]
    )


def markdown_table(headers: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table; every column but the first is right-aligned."""
    rule = ["---", *["---:"] * (len(headers) - 1)]
    return ["| " + " | ".join(line) + " |" for line in (headers, rule, *rows)]


def headline(report: dict[str, Any]) -> list[str]:
    """Our speed-up by model and precision."""
    names: list[str] = []
    for model in report["models"]:
        names += [r["precision"] for r in model["rows"] if r["engine"] == OURS]
    names = list(dict.fromkeys(names))
    rows = []
    for model in report["models"]:
        ours = {r["precision"]: r for r in model["rows"] if r["engine"] == OURS}
        for threads in model["threads"]:
            best = best_int8_peer(model, threads)
            peer = f"{best['name']} {cost(best, threads):.2f} ms" if best else "none"
            ratios = [number(speedup(model, ours[n], threads)) if n in ours else "" for n in names]
            rows.append([model["name"], str(threads), peer, *ratios])
    return markdown_table(["model", "threads", "best int8 peer", *names], rows)


def to_markdown(report: dict[str, Any]) -> str:
    """The whole report."""
    settings = report["settings"]
    lines = ["# Models", "", f"Measured {report['date']}, {settings['rounds']} rounds.", ""]
    lines += [f"- {line}" for line in machine_text(report).splitlines()]
    lines += ["", "How many times faster than the fastest int8 peer (above 1: tvmquant is faster):"]
    lines += ["", *headline(report)]
    for model in report["models"]:
        lines += ["", f"## {model['name']}", ""]
        lines += [f"{note}." for note in model["notes"]] + [""]
        if model["rows"]:
            lines += markdown_table(columns(model), [cells(model, r) for r in in_order(model)])
        missing = absent(model)
        if missing:
            lines += ["", "Not measured:", ""]
            lines += [f"- {name}: {reason}" for name, reason in missing]
        lines += profile_lines(model)
    return "\n".join(lines) + "\n"


def profile_lines(model: dict[str, Any]) -> list[str]:
    """Where our time goes: light operators and the layers far from the peak."""
    lines: list[str] = []
    for row in model["rows"]:
        profile = row.get("profile")
        if not profile or not profile["layers_us"]:
            continue
        total = profile["layers_us"]
        light = total - profile["linear_us"]
        text = (
            f"- {row['precision']}: {total / 1e3:.2f} ms in kernels, {light / total:.0%} of it "
            f"outside convolutions and matmuls"
        )
        if profile["linear_gops"]:
            text += f", which run at {profile['linear_gops']:.0f} GOP/s"
        slow = sum(item["us"] for item in profile["slow"])
        text += f"; {len(profile['slow'])} layers under 40 % of the peak take {slow / total:.0%}"
        lines.append(text)
    return ["", "Where the time of tvmquant goes:", "", *lines] if lines else []
