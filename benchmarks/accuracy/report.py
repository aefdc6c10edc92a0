"""The measured rows as JSON, as Markdown and, first of all, against the targets."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.accuracy.methods import SECTIONS
from benchmarks.accuracy.network import METRICS

# Drop of top-1 in points at most; agreement with float in percent at least.
DROPS = {
    "resnet20": {"w8a8": 0.1, "w4a8": 0.3, "w4a4": 1.0},
    "mobilenetv2": {"w8a8": 0.2, "w4a8": 0.8, "w4a4": 3.0},
}
AGREEMENTS = {"efficientnet_lite0": {"w8a8": 97.0, "w4a8": 88.0}}
BEHIND_PEERS = 0.1
OURS = "recipes/default"
Rows = list[dict[str, Any]]


def key(row: dict[str, Any]) -> tuple[str, ...]:
    """What a row is the measurement of."""
    return row["network"], row["section"], row["method"], row["bits"]


def targets(rows: Rows) -> list[dict[str, Any]]:
    """The targets with what was measured; those not measured are left out."""
    found = []
    for network, limits in (*DROPS.items(), *AGREEMENTS.items()):
        for bits, limit in limits.items():
            ours = _find(rows, network, bits)
            if ours is None:
                continue
            is_drop = network in DROPS
            value = ours["drop"] if is_drop else 100 - ours["drop"]
            peer = best_peer(rows, network, bits)
            best = best_of_ours(rows, network, bits)
            behind = None if peer is None else ours["drop"] - peer["drop"]
            found.append(
                {
                    "network": network,
                    "bits": bits,
                    "what": "drop" if is_drop else "agreement",
                    "target": limit,
                    "measured": value,
                    "spread": ours["spread"],
                    "draws": ours["draws"],
                    "met": value <= limit if is_drop else value >= limit,
                    "peer": None if peer is None else peer["method"],
                    "behind_peer": behind,
                    "peer_met": None if behind is None else behind <= BEHIND_PEERS,
                    "best": f"{best['section']}: {best['method']}",
                    "best_drop": best["drop"],
                }
            )
    return found


def _find(rows: Rows, network: str, bits: str) -> dict[str, Any] | None:
    for row in rows:
        where = f"{row['section']}/{row['method']}"
        if (row["network"], row["bits"], where) == (network, bits, OURS) and row["scores"]:
            return row
    return None


def _measured(rows: Rows, network: str, bits: str, *, peers: bool) -> Rows:
    return [
        row
        for row in rows
        if row["network"] == network
        and row["bits"] == bits
        and row["scores"]
        and (row["section"] == "peers") == peers
    ]


def best_peer(rows: Rows, network: str, bits: str) -> dict[str, Any] | None:
    """The other tool that loses least."""
    found = _measured(rows, network, bits, peers=True)
    return min(found, key=lambda row: row["drop"], default=None)


def best_of_ours(rows: Rows, network: str, bits: str) -> dict[str, Any]:
    """The method of tvmquant that loses least."""
    return min(_measured(rows, network, bits, peers=False), key=lambda row: row["drop"])


def to_markdown(report: dict[str, Any]) -> str:
    """The whole report; targets first."""
    rows, parts = report["rows"], ["# Accuracy", ""]
    parts += [
        f"{report['date']}, tvmquant {report['versions'].get('tvmquant', '')}. Every figure of "
        "tvmquant is that of the compiled integer program, run on all test data. `±` is the "
        "standard deviation over the calibration draws (seeds 0, 1, …), whose number stands "
        "behind it in brackets. The first and the last layer keep 8 bits (the default) wherever "
        "a method does not say otherwise; other tools quantize them like all others.",
        "",
        "| network | data | float |",
        "|---|---|---|",
    ]
    for name, network in report["networks"].items():
        metric = METRICS[network["metric"]]
        parts.append(f"| {name} | {network['about']} | {network['float']:.2f} ({metric}) |")
    parts += ["", "## Targets", "", *_target_table(targets(rows))]
    for network in report["networks"]:
        mine = [row for row in rows if row["network"] == network]
        parts += ["", f"## {network}", ""]
        metric = report["networks"][network]["metric"]
        parts.append(f"Points lost against float ({METRICS[metric]}).")
        for section, title in SECTIONS.items():
            parts += _section(title, [row for row in mine if row["section"] == section])
    return "\n".join(parts) + "\n"


def _target_table(found: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| network | bits | target | measured | met | best other tool | behind it | best method |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        sign = "≤" if row["what"] == "drop" else "≥"
        peer = "–" if row["peer"] is None else row["peer"]
        behind = "–"
        if row["behind_peer"] is not None:
            behind = f"{row['behind_peer']:+.2f} {'yes' if row['peer_met'] else '**no**'}"
        lines.append(
            f"| {row['network']} | {row['bits']} | {row['what']} {sign} {row['target']} | "
            f"{row['measured']:.2f} ± {row['spread']:.2f} ({row['draws']}) | "
            f"{'yes' if row['met'] else '**no**'} | {peer} | {behind} | "
            f"{row['best']} {row['best_drop']:.2f} |"
        )
    return lines


def _section(title: str, rows: Rows) -> list[str]:
    if not rows:
        return []
    bits = sorted({row["bits"] for row in rows}, key=_order)
    lines = ["", f"### {title}", "", f"| method | adds | {' | '.join(bits)} | s |"]
    lines.append("|---|---|" + "---|" * (len(bits) + 1))
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = {row["bits"]: row for row in rows if row["method"] == method}
        adds = next(iter(mine.values()))["adds"]
        spent = [sum(row["seconds"].values()) for row in mine.values() if row["seconds"]]
        cells = [cell(mine.get(name)) for name in bits]
        slowest = f"{max(spent):.0f}" if spent else ""
        lines.append(f"| {method} | {adds} | {' | '.join(cells)} | {slowest} |")
    return lines


def _order(bits: str) -> tuple[int, int]:
    weight, _, activation = bits[1:].partition("a")
    return -int(weight), -int(activation)


def cell(row: dict[str, Any] | None) -> str:
    """``drop ± spread (draws)``, or why there is none."""
    if row is None:
        return ""
    if not row["scores"]:
        return f"– ({row['reason']})"
    spread = f" ± {row['spread']:.2f}" if row["draws"] > 1 else ""
    return f"{row['drop']:.2f}{spread} ({row['draws']})"


def in_order(rows: Iterable[dict[str, Any]], order: list[tuple[str, ...]]) -> Rows:
    """Rows as the table has them; those it does not know come last."""
    place = {where: i for i, where in enumerate(order)}
    return sorted(rows, key=lambda row: place.get(key(row), len(place)))


def write(report: dict[str, Any], folder: Path, stem: str = "accuracy") -> None:
    """``accuracy.json``, ``.md`` and ``.png``."""
    from benchmarks.accuracy.plot import plot

    folder.mkdir(parents=True, exist_ok=True)
    data = {**report, "targets": targets(report["rows"])}
    _replace(folder / f"{stem}.json", json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    _replace(folder / f"{stem}.md", to_markdown(report))
    plot(report, folder / f"{stem}.png")


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
