"""The Chinese pages show the same commands and programs as the English ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = {"README.md": "README.md", "docs/quickstart.md": "quickstart.md",
         "docs/ascend.md": "ascend.md"}  # fmt: skip
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^    .+\n)+", re.MULTILINE)
ROWS = re.compile(r"^\| `(--[^`]+)` \| (\w+|\S\S)", re.MULTILINE)
KINDS = {"acts": "有效", "accepted": "接受", "refused": "拒绝"}


def code_of(text: str) -> list[str]:
    """Return all blocks of code, first the fenced ones."""
    rest = FENCED.sub("", text)
    return [body for _, body in FENCED.findall(text)] + INDENTED.findall(rest)


@pytest.mark.parametrize("english", PAGES)
def test_code_is_the_same(english: str) -> None:
    ours = (ROOT / english).read_text(encoding="utf-8")
    theirs = (ROOT / "docs" / "zh" / PAGES[english]).read_text(encoding="utf-8")
    assert code_of(ours)
    assert code_of(theirs) == code_of(ours)
    assert len(re.findall(r"[\u4e00-\u9fff]", theirs)) > 200


def test_options_are_described_alike() -> None:
    english, chinese = (
        ROWS.findall((ROOT / folder / "ascend.md").read_text(encoding="utf-8"))
        for folder in ("docs", "docs/zh")
    )
    assert len(english) > 50
    assert [(name, KINDS[kind]) for name, kind in english] == [
        (name, kind[:2]) for name, kind in chinese
    ]
