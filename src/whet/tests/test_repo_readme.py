"""What README shows is executed: Python blocks as one program, ``whet`` lines as commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from whet.cli.main import run_command
from whet.tests.small_models import write_layer

README = Path(__file__).parents[3] / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# The network of the demonstration is checked by its own tests.
SLOW = ("whet demo",)


def _blocks(language: str) -> list[str]:
    found = BLOCK.findall(README.read_text(encoding="utf-8"))
    return [text for kind, text in found if kind == language]


def _prepare(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the files that README speaks of into an empty folder, and go there."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WHET_CACHE_DIR", str(folder / "cache"))
    write_layer(folder / "m.onnx", batch="batch")
    np.save(folder / "x.npy", np.ones((2, 4), np.float32))


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _prepare(tmp_path, monkeypatch)
    blocks = _blocks("python")
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert (tmp_path / "m.whet").exists()


def test_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _prepare(tmp_path, monkeypatch)
    lines = [line.split("#")[0].strip() for text in _blocks("sh") for line in text.splitlines()]
    commands = [c for c in lines if c.startswith("whet ") and not c.startswith(SLOW)]
    assert commands
    for line in commands:
        assert run_command(shlex.split(line)[1:]) == 0, line


def test_first_two_commands_are_as_promised() -> None:
    first = [line.split("#")[0].strip() for line in _blocks("sh")[0].splitlines()]
    assert first == ["pip install . && whet demo", "pip install '.[dev]' && pytest"]
