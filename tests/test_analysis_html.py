"""The page of a sensitivity report."""

import base64
import builtins
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from analysis_tools import data, network, recipe

from tvmquant.analysis import html, plots, sensitivity
from tvmquant.errors import InputError

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that elements close in order, and keeps texts, pictures and links."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.pictures, self.ids, self.links = [], [], [], set(), []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.pictures.append(attrs["src"])
        if "id" in attrs:
            self.ids.add(attrs["id"])
        if tag == "a":
            self.links.append(attrs["href"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)


@pytest.fixture(scope="module")
def report():
    return sensitivity(network(), calibration=data(), recipe=recipe(), samples=3)


def svg_of(picture):
    head, _, body = picture.partition(",")
    assert head == "data:image/svg+xml;base64"
    return base64.b64decode(body).decode()


def test_the_page_names_every_layer_and_stands_alone(report, tmp_path):
    path = report.to_html(tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    words = " ".join(page.texts)
    table = words.partition("MACs")[2]
    order = [table.index(layer.name) for layer in report.layers]
    assert order == sorted(order)
    for layer in report.layers:
        assert f"{layer.macs:,}" in words
    # The overview, an input and the weights of every layer, and edges that no layer reads.
    unread = sum(not edge.readers for edge in report.edges)
    assert len(page.pictures) == 1 + 2 * len(report.layers) + unread
    for picture in page.pictures:
        assert ElementTree.fromstring(svg_of(picture)).tag.endswith("svg")
    assert {link.removeprefix("#") for link in page.links} <= page.ids
    assert not re.search(r'(?:src|href)="(?:https?:)?//', text)
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_names_are_escaped(report):
    evil = replace(report.layers[0], name="<script>$x & y", hints=("a < b",))
    text = html.render(replace(report, layers=(evil,), source="<b>.onnx"))
    page = Page(text)
    assert "<script>" not in text and "<b>" not in text
    assert "<script>$x & y" in page.texts
    assert "a < b" in page.texts


def test_a_histogram_shows_its_range_and_what_is_clipped(report):
    edge = replace(
        *(report.edges[0],), low=-1.0, high=1.0, seen_low=-2.0, seen_high=2.0, clipped=0.5,
        counts=(5,) * 8, name="edge",
    )  # fmt: skip
    red = plots.input_histogram(edge).count(plots._RED)
    wide = plots.input_histogram(replace(edge, low=-3.0, high=3.0, clipped=0.0))
    # Two lines for the range, and an area for what is clipped.
    assert (red, wide.count(plots._RED)) == (3, 2)
    assert "50.000% clipped" in plots.input_histogram(edge)
    unknown = replace(edge, low=None, high=None, scale=None, clipped=None)
    assert plots._RED not in plots.input_histogram(unknown)


def test_odd_layers_are_drawn(report):
    flat = replace(report.edges[0], seen_low=0.0, seen_high=0.0, counts=(7, 0, 0), low=0.0)
    ElementTree.fromstring(plots.input_histogram(flat))
    layer = report.layers[0]
    wide = replace(layer, weight_low=(-1.0,) * 900, weight_high=(1.0,) * 900)
    ElementTree.fromstring(plots.weight_ranges(replace(wide, weight_limits=(1.0,) * 900)))
    product = replace(layer, weight_low=(), weight_high=(), weight_limits=(), inputs=())
    assert len(Page(html.render(replace(report, layers=(product,)))).pictures) > 0


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_missing_packages_are_named(package, report, tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InputError, match=r"pip install 'tvmquant\[report\]'"):
        html.check_report_packages()
    with pytest.raises(InputError, match=r"pip install 'tvmquant\[report\]'"):
        report.to_html(tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_named(report, tmp_path):
    with pytest.raises(InputError, match=r"cannot write .*missing"):
        report.to_html(tmp_path / "missing" / "report.html")
