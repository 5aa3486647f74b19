"""The script that writes docs/operators.md sees every operator; the page is regenerated with it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from whet.lower.control import CONTROLS
from whet.ops.table import op_table

SCRIPT = Path(__file__).parents[3] / "scripts" / "operators.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("operators_script", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_operator_has_a_row(script: ModuleType) -> None:
    text = script.page()
    rows = dict(
        re.findall(r"^\| (\w+) \|.*\| (native|control|host|translated) \|", text, re.MULTILINE)
    )
    assert {name for _, name in op_table()} <= rows.keys()
    assert all(rows[name] == "control" for name in CONTROLS)
    add = next(line for line in text.splitlines() if line.startswith("| Add |"))
    assert add.split(" | ")[1:4] == ["1, 6, 7, 13, 14", "numbers", "native"]
    passed, known = map(int, re.findall(r"(\d+) of (\d+)", add)[0])
    assert 0 < passed <= known


def test_the_page_is_one_that_the_script_wrote(script: ModuleType) -> None:
    """Rows change as operators are added; head and columns are those of the script."""
    text = script.PAGE.read_text(encoding="utf-8")
    assert text.startswith(script.HEAD.split("Opsets")[0])
    assert "| operator | opsets | types | mode | fixed | open | constants |" in text
