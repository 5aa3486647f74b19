"""The size caps: the script sees what is too large, and the code is within them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def sizes() -> ModuleType:
    """Import the script."""
    spec = importlib.util.spec_from_file_location("check_sizes", ROOT / "scripts/check_sizes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\n" * 601, "601 lines"),
        ("def f():\n" + "    x = 1\n" * 41, "41 statements"),
        ("def f():\n    if 1:\n" + "        x = 1\n" * 40, "41 statements"),
        ("def f(a, b, c, d, *, e, f, g): ...\n", "7 parameters"),
        ("class C:\n    async def f(self, a, b, c, d, e, f, g): ...\n", "7 parameters"),
    ],
)
def test_too_large(
    sizes: ModuleType, tmp_path: Path, text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "large.py").write_text(text)
    assert sizes.main([str(tmp_path)]) == 1
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\n" * 600,
        'def f():\n    """Doc."""\n' + "    x = 1\n" * 40,
        "class C:\n    def f(self, a, b, c, d, e, f): ...\n",
        "def f():\n    def g():\n" + "        x = 1\n" * 40 + "    return g\n",
    ],
)
def test_just_allowed(sizes: ModuleType, tmp_path: Path, text: str) -> None:
    (tmp_path / "fine.py").write_text(text)
    assert sizes.main([str(tmp_path)]) == 0


def test_empty_folder_is_an_error(sizes: ModuleType, tmp_path: Path) -> None:
    assert sizes.main([str(tmp_path)]) == 2
