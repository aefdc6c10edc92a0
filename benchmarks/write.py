"""The results of whole models as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.plot import plot_models
from benchmarks.report import to_markdown


def write_report(report: dict[str, Any], folder: Path, suffix: str = "") -> None:
    """``models.json``, ``models.md`` and ``models.png``, with a suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1, ensure_ascii=False)
    (folder / f"models{suffix}.json").write_text(text + "\n", encoding="utf-8")
    (folder / f"models{suffix}.md").write_text(to_markdown(report), encoding="utf-8")
    plot_models(report, folder / f"models{suffix}.png")
