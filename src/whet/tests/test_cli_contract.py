"""What every command owes: help with an example, a page, JSON with a versioned schema."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import msgspec
import numpy as np
import pytest

from whet.cli import exits
from whet.cli.forms import all_forms
from whet.cli.main import run_command, whet_command
from whet.compat.ascend import TOOLS
from whet.tests.documents import conform
from whet.tests.small_models import write_layer

CLI = Path(__file__).parents[3] / "docs" / "cli.md"
SCHEMAS = CLI.parent / "schemas"
COMMANDS = whet_command.list_commands(click.Context(whet_command))
OWN = [name for name in COMMANDS if name not in TOOLS]
WITHOUT_LINE = {"demo", "llm"}
"""Commands whose networks have tests of their own, their JSON among them."""

FURTHER = {"demo", "demo_network", "llm", "view"}
"""Documents that tests of their own ask for."""
QUICK = "--rounds 2 --threads 1"

JSON_LINES = {
    "compile": "compile m.onnx -o a.whet --json",
    "quantize": "quantize m.onnx --calibration c.npy -o q.onnx --json",
    "optimize": "optimize m.onnx -o o.onnx --json",
    "check": "check m.onnx --json",
    "tune": "tune m.onnx --threads 1 --seconds 0 --json",
    "run": "run m.onnx --input random --json",
    "bench": f"bench m.onnx {QUICK} --json -",
    "compare": "compare m.whet m.whet --rounds 10 --threshold 9 --json",
    "inspect": "inspect m.onnx --json",
    "verify": "verify m.onnx --reference onnx --json",
    "bisect": "bisect m.onnx --reference onnx --json",
    "reduce": "reduce m.onnx --reference onnx -o reduced --json",
    "report": f"report m.onnx {QUICK} --json",
    "migrate": f"migrate m.onnx {QUICK} --reference onnx --json",
    "profile": "profile m.whet --runs 2 --json",
    "doctor": "doctor --json",
    "ascend-commands": "ascend-commands --install scripts --json",
}
"""A line that prints JSON for every other command."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("contract")
    write_layer(place / "m.onnx")
    np.save(place / "c.npy", np.ones((2, 4), np.float32))
    line = ["compile", str(place / "m.onnx"), "-o", str(place / "m.whet"), "--threads", "1"]
    assert run_command([*line, "--cache-dir", ""]) == exits.OK
    return place


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_and_a_page(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([name, "--help"]) == exits.OK
    shown = " ".join(capsys.readouterr().out.split())
    example = re.search(rf"Example: whet {name}(?= |$)", shown)
    assert example, shown
    assert f"\n## whet {name}\n" in CLI.read_text(encoding="utf-8")


def test_every_command_is_asked_for_json() -> None:
    assert {*JSON_LINES, *WITHOUT_LINE} == set(OWN)


@pytest.mark.parametrize("name", JSON_LINES)
def test_json_names_its_form(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WHET_JOBS", "1")
    monkeypatch.setenv("WHET_CACHE_DIR", str(folder / "cache"))
    capsys.readouterr()
    assert run_command(shlex.split(JSON_LINES[name])) in (exits.OK, exits.NEGATIVE)
    text = capsys.readouterr().out
    assert re.fullmatch(rf"whet\.{name.replace('-', '_')}\.\d+", conform(text)["schema"])


def test_every_form_is_in_a_schema_file() -> None:
    """The files are those of the records: ``python scripts/schemas.py`` writes them."""
    forms = all_forms()
    lines = {name.replace("-", "_") for name in JSON_LINES}
    assert {name.split(".")[1] for name in forms} == lines | FURTHER
    for name, form in forms.items():
        written = json.loads((SCHEMAS / f"{name}.json").read_text())
        assert written == json.loads(msgspec.json.encode(msgspec.json.schema(form)))


def test_a_field_that_no_form_has_is_noticed() -> None:
    line: dict[str, object] = {
        "schema": "whet.ascend_commands.1",
        "folder": "x",
        "installed": True,
        "commands": [],
    }
    name = "whet.ascend_commands.1"
    forms = all_forms(strict=True)[name], all_forms()[name]
    for form in forms:
        msgspec.json.decode(json.dumps(line), type=form)
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(json.dumps({**line, "more": 1}), type=forms[0])
    msgspec.json.decode(json.dumps({**line, "more": 1}), type=forms[1])
    with pytest.raises(msgspec.ValidationError, match="installed"):
        msgspec.json.decode(json.dumps({**line, "installed": 3}), type=forms[1])


@pytest.mark.parametrize("name", OWN)
def test_errors_name_the_remedy(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([name, "--no-such-option"]) == exits.USAGE
    shown = capsys.readouterr().err
    assert "--no-such-option" in shown
    assert "--help" in shown
