"""The page of ``inspect --view``: lanes, rows, safety, and how it behaves in a real browser."""

from __future__ import annotations

import base64
import hashlib
import random
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import onnx
import pytest
from PIL import Image

from whet.cli import exits
from whet.cli.main import run_command
from whet.report.lanes import Step, draw_lanes, place_lanes
from whet.report.page import Section, render_page
from whet.report.view_page import view_page
from whet.tests.documents import conform
from whet.tests.seeds import seeds_of_models
from whet.tests.small_models import layer_model, write_layer

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"
BROWSER = next(
    (b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), ""
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --virtual-time-budget=2000"
)


def test_lanes_of_a_residual_block() -> None:
    steps = [
        Step(("x",), ("a",)), Step(("a",), ("b",)), Step(("b", "a"), ("c",)), Step(("c",), ("y",)),
    ]  # fmt: skip
    rows = place_lanes(steps)
    assert [row.lane for row in rows] == [0, 1, 0, 0] or [row.lane for row in rows] == [0, 1, 1, 1]
    assert rows[1].passing == (0,)
    assert set(rows[2].entering) == {0, 1}
    assert rows[3].leaving == ()


def test_lanes_never_meet() -> None:
    for seed in seeds_of_models(20):
        source, steps, known = random.Random(seed), [], ["x"]
        for number in range(40):
            reads = tuple(source.choices(known, k=source.randint(0, 3)))
            writes = tuple(f"v{number}_{k}" for k in range(source.randint(0, 2)))
            steps.append(Step(reads, writes))
            known += writes
        rows = place_lanes(steps)
        for row, below in pairwise(rows):
            after = [*row.passing, *row.leaving]
            assert len(set(after)) == len(after), "two values in one lane"
            assert set(below.entering) <= set(after)
            assert set(below.passing) <= set(after)
        ElementTree.fromstring(draw_lanes(steps))
    ElementTree.fromstring(draw_lanes([]))


def facts_of(name: str) -> dict[str, Any]:
    node = {
        "name": name, "op": name, "reads": ["x"], "writes": [name], "outputs": [(name, name)],
        "launches": [0],
        "errors": [{"value": name, "place": name, "own": 1e-3, "accumulated": None,
                    "level": "wrong"}],
    }  # fmt: skip
    launch = {
        "index": 0, "kernel": name, "ops": [name], "nodes": [name], "reads": [], "writes": [name],
        "span_us": 12.5, "share": 1.0, "gflops": 1.0, "gbytes": 2.0, "bound": name,
    }  # fmt: skip
    times = {"plain_us": 20.0, "threads": 2}
    return {"model": name, "target": name, "times": times, "reference": name, "nodes": [node],
            "launches": [launch]}  # fmt: skip


def test_one_thread_is_a_thread() -> None:
    facts = facts_of("n")
    assert "with 2 threads" in view_page(facts)
    facts["times"]["threads"] = 1
    assert "with 1 thread;" in view_page(facts)


def test_the_one_script_is_the_one_that_is_allowed() -> None:
    page = view_page(facts_of(HOSTILE))
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "default-src 'none'" in page
    assert HOSTILE not in page
    assert not re.search(r"\b(src|href)=", page.replace("&lt;img src=x", ""))


def browse(page: str, folder: Path, *more: str) -> str:
    """Return the document as a browser has it after its scripts ran."""
    file = folder / "page.html"
    file.write_text(page)
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [BROWSER, *FLAGS.split(), profile, *more, "--dump-dom", f"{file.as_uri()}#n0"]
    found = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")
def test_a_browser_shows_what_belongs_together(tmp_path: Path) -> None:
    document = browse(view_page(facts_of(HOSTILE)), tmp_path)
    assert "<title>owned" not in document
    assert re.search(r'<li id="n0"[^>]* class="chosen"', document)
    assert re.search(r'<li id="l0"[^>]* class="peer"', document)
    detail = document.split('id="detail"')[1]
    assert "own 1.00e-03" in detail


_WIDTH = "<script>document.title = document.documentElement.scrollWidth</script></body>"


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")
@pytest.mark.parametrize("kind", ["view", "page"])
def test_pages_fit_a_phone(tmp_path: Path, kind: str) -> None:
    long = "a_rather_long_name_of_a_value_" * 4
    row = tuple(f"{long}{k}" for k in range(6))
    table = Section("title", texts=(long,), headers=row, rows=(row,))
    text = view_page(facts_of(long)) if kind == "view" else render_page(long, long, [], [table])
    open_to_scripts = re.sub(r"<meta http-equiv[^>]*>", "", text).replace("</body>", _WIDTH)
    document = browse(open_to_scripts, tmp_path, "--window-size=500,900")
    width = re.search(r"<title>(\d+)</title>", document)
    assert width is not None
    assert int(width[1]) <= 500


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")
@pytest.mark.parametrize("kind", ["view", "page"])
def test_pages_are_seen_on_a_phone_and_print(tmp_path: Path, kind: str) -> None:
    """The picture of a small screen is not blank; a long table takes several sheets of paper."""
    row = tuple(f"value {k}" for k in range(6))
    table = Section("Launches", texts=("What differs.",), headers=row, rows=(row,) * 120)
    text = view_page(facts_of("Conv")) if kind == "view" else render_page("t", "h", [], [table])
    picture, paper = tmp_path / "shot.png", tmp_path / "page.pdf"
    browse(text, tmp_path, "--window-size=400,800", f"--screenshot={picture}")
    with Image.open(picture) as shot:
        assert shot.width <= 500
        colours = shot.convert("RGB").getcolors(1 << 24)
    assert colours is not None
    assert len(colours) > 8, "text and lines have many shades"
    browse(text, tmp_path, f"--print-to-pdf={paper}")
    printed = paper.read_bytes()
    assert printed.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) >= (2 if kind == "page" else 1)


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHET_JOBS", "1")
    write_layer(tmp_path / "m.onnx")
    line = "inspect m.onnx --view --no-browser --threads 1 --json"
    assert run_command(line.split()) == exits.OK
    facts = conform(capsys.readouterr().out)
    assert facts["schema"] == "whet.view.1"
    assert [node["launches"] for node in facts["nodes"]] == [[0], [0]]
    assert facts["launches"][0]["span_us"] > 0
    assert facts["nodes"][1]["errors"][0]["level"] == "ok"
    assert facts["nodes"][0]["outputs"] == [["h", "f32[2,3]"]]
    page = Path("m.view.html").read_text()
    assert page.count('class="lanes"') == 2
    line = "inspect m.onnx --view --no-browser --no-measure -o other.html --threads 1 --json"
    assert run_command(line.split()) == exits.OK
    assert conform(capsys.readouterr().out)["times"] is None
    assert " us</span>" not in Path("other.html").read_text()
    capsys.readouterr()
    assert run_command("inspect m.whet --view".split()) == exits.USAGE
    assert "name m.onnx" in capsys.readouterr().err


def test_a_node_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHET_JOBS", "1")
    model = layer_model()
    same = onnx.helper.make_node("Identity", ["x"], ["same"], name="same")
    model.graph.node.insert(0, same)
    model.graph.node[1].input[0] = "same"
    onnx.save(model, "m.onnx")
    line = "inspect m.onnx --view --no-browser --no-measure --threads 1"
    assert run_command(line.split()) == exits.OK
    capsys.readouterr()
    assert ">gone</span>" in Path("m.view.html").read_text()
