"""What README and the quick start show is executed: programs, and ``whet`` lines as commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from whet.cli.main import run_command
from whet.tests.small_models import write_layer

ROOT = Path(__file__).parents[3]
PAGES: dict[str, int | str] = {"README.md": "batch", "docs/quickstart.md": 2}
"""Pages, and the batch that the model of each has."""
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# The network of the demonstration is checked by its own tests.
SLOW = ("whet demo",)


def _blocks(language: str, page: str = "README.md") -> list[str]:
    found = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    return [text for kind, text in found if kind == language]


def _prepare(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the files that a page speaks of into an empty folder, and go there."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("webbrowser.open", lambda url: url.startswith("file:"))
    monkeypatch.setenv("WHET_CACHE_DIR", str(folder / "cache"))
    write_layer(folder / "m.onnx", batch=PAGES[page])
    np.save(folder / "x.npy", np.ones((2, 4), np.float32))


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _prepare(page, tmp_path, monkeypatch)
    blocks = _blocks("python", page)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    assert (tmp_path / "m.whet").exists()


@pytest.mark.parametrize("page", PAGES)
def test_commands_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _prepare(page, tmp_path, monkeypatch)
    blocks = _blocks("sh", page)
    lines = [line.split("#")[0].strip() for text in blocks for line in text.splitlines()]
    commands = [c for c in lines if c.startswith("whet ") and not c.startswith(SLOW)]
    assert commands
    for line in commands:
        assert run_command(shlex.split(line)[1:]) == 0, line


def test_first_two_commands_are_as_promised() -> None:
    first = [line.split("#")[0].strip() for line in _blocks("sh")[0].splitlines()]
    assert first == ["pip install . && whet demo", "pip install '.[dev]' && pytest"]
