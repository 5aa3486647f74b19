"""Pages: complete, self-contained, and safe with hostile names."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from whet.cli import exits
from whet.cli.main import run_command
from whet.report.charts import bar_chart, roofline_chart, step_chart
from whet.report.page import Section, render_page
from whet.tests.small_models import write_layer

HOSTILE = "</text><script>alert('x')</script>"


class _Balance(HTMLParser):
    """Counts open elements, and remembers what a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.loads += [str(v) for k, v in attrs if k in ("src", "href")]
        assert tag not in ("script", "link", "img", "iframe")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Ignore elements that close themselves."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check_page(text: str) -> None:
    parser = _Balance()
    parser.feed(text)
    assert parser.open == []
    assert parser.loads == []
    assert "http-equiv" in text
    for chart in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(chart)


@pytest.mark.parametrize(
    "chart",
    [
        bar_chart([(HOSTILE, 1.0, HOSTILE), ("b", 0.0, "")], unit="us"),
        bar_chart([], unit="us"),
        step_chart([1.0, 3.0, 2.0], limit=4.0, unit="MiB"),
        step_chart([], limit=0.0, unit="MiB"),
        roofline_chart([(HOSTILE, 0.5, 3.0, 0.4), ("idle", 0.0, 0.0, 0.0)], gflops=100, gbytes=10),
        roofline_chart([], gflops=100.0, gbytes=10.0),
    ],
)
def test_charts_are_xml_whatever_the_names(chart: str) -> None:
    root = ElementTree.fromstring(chart)
    assert not list(root.iter("script"))


def test_bars_are_as_long_as_their_values() -> None:
    root = ElementTree.fromstring(bar_chart([("a", 4.0, ""), ("b", 1.0, "")], unit="s"))
    shares = [float(bar.attrib["style"].removeprefix("--share:")) for bar in root.iter("i")]
    assert shares == [1, 0.25]


def test_page_escapes_everything() -> None:
    section = Section(HOSTILE, (HOSTILE,), None, (HOSTILE,), ((HOSTILE,),), folded=True)
    text = render_page(HOSTILE, HOSTILE, [(HOSTILE, HOSTILE)], [section])
    assert "<script" not in text
    check_page(text)


def test_report_of_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_layer(tmp_path / "m.onnx")
    line = "report m.onnx --threads 1 --rounds 3 --json"
    assert run_command(line.split()) == exits.OK
    facts = json.loads(capsys.readouterr().out)
    assert facts["schema"] == "whet.report.1"
    assert facts["accuracy"]["passed"] is True
    text = Path("m.html").read_text()
    check_page(text)
    for word in ("Roofline", "Memory over a run", "Accuracy", "Placement", "dense", "Environment"):
        assert word in text
    assert run_command("report m.whet".split()) == exits.USAGE
    assert run_command("report m.onnx -o no/such/folder.html".split()) == exits.ARTIFACT


def test_comparison_as_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_layer(tmp_path / "m.onnx")
    line = "compare m.onnx m.onnx --threads 1 --rounds 10 --threshold 10 --html c.html"
    assert run_command(line.split()) == exits.OK
    text = Path("c.html").read_text()
    check_page(text)
    assert "m.onnx (A) and m.onnx (B)" in text
