"""A sensitivity report as one self-contained HTML page."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from tvmquant.analysis import plots
from tvmquant.analysis.report import SensitivityReport, db_text
from tvmquant.errors import InputError

TEMPLATE = "sensitivity.html.jinja"


def check_report_packages() -> None:
    """Raise ``InputError`` unless jinja2 and matplotlib are there, before work is spent."""
    plots.figure_class()
    _template()


def render(report: SensitivityReport) -> str:
    """The page as text."""
    template = _template()
    edges = {edge.name: edge for edge in report.edges}
    histograms = {name: plots.input_histogram(edge) for name, edge in edges.items()}
    layers = []
    for layer in report.layers:
        pictures = [plots.as_image(histograms[name]) for name in layer.inputs if name in edges]
        if layer.weight_low:
            pictures.append(plots.as_image(plots.weight_ranges(layer)))
        layers.append((layer, pictures))
    read = {name for layer in report.layers for name in layer.inputs}
    others = [
        (edge, plots.as_image(histograms[edge.name]))
        for edge in report.edges
        if edge.name not in read
    ]
    return template.render(
        report=report,
        layers=layers,
        others=others,
        overview=plots.as_image(plots.overview(report)),
        width=_bar_width(report),
        db=db_text,
    )


def write_html(report: SensitivityReport, path: str | os.PathLike[str]) -> Path:
    """Write the page to a temporary name, then rename it.

    Raises
    ------
    InputError
        If a package is missing or the file cannot be written.
    """
    path = Path(path)
    text = render(report)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; name another file") from None
    finally:
        if part.is_file():
            part.unlink()
    return path


def _template() -> Any:
    try:
        import jinja2
    except ImportError:
        raise InputError(plots.MISSING) from None
    source = (files("tvmquant") / "assets" / TEMPLATE).read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(source)


def _bar_width(report: SensitivityReport) -> Any:
    """``share → percent`` of the widest bar."""
    most = max((layer.share for layer in report.layers), default=0.0) or 1.0
    return lambda share: f"{100 * share / most:.1f}"
