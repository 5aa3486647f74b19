"""The documentation names what exists: passes, options, exit codes, files."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import click
import pytest

from whet.cli import exits
from whet.cli.main import whet_command
from whet.codegen.kernels import KINDS
from whet.passes.pipeline import pass_names

ROOT = Path(__file__).parents[3]
LINK = re.compile(r"\]\(([^)#:]+)\)")
PAGES = sorted(str(p.relative_to(ROOT)) for p in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
PROGRAM = re.compile(
    r"^```python\n(.*?)^```$(?:\s*^```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE
)


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_command_and_option_is_documented() -> None:
    text = _read("docs/cli.md")
    context = click.Context(whet_command)
    for name in whet_command.list_commands(context):
        assert f"## whet {name}\n" in text
        command = whet_command.get_command(context, name)
        assert command is not None
        for option in command.params:
            if isinstance(option, click.Option):
                spelling = "|".join(map(re.escape, option.opts))
                assert re.search(rf"(?<![\w-])({spelling})(?![\w-])", text), option.opts


def test_every_exit_code_is_documented() -> None:
    text = _read("docs/cli.md")
    codes = {value for value in vars(exits).values() if isinstance(value, int)}
    assert codes == {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}


def test_every_pass_is_documented() -> None:
    text = _read("docs/architecture.md")
    assert [name for name in pass_names() if f"`{name}`" not in text] == []


def test_every_kernel_kind_is_documented() -> None:
    text = _read("docs/architecture.md")
    assert [kind.__name__ for kind in KINDS if f"| `{kind.__name__}` |" not in text] == []


DOCS_WITH_PROGRAMS = (
    "docs/architecture.md",
    "docs/adding.md",
    "docs/preprocess.md",
    "docs/quantize.md",
)


@pytest.mark.parametrize("name", DOCS_WITH_PROGRAMS)
def test_programs_print_what_is_shown(name: str) -> None:
    programs = PROGRAM.findall(_read(name))
    assert programs
    names: dict[str, object] = {}
    for program, shown in programs:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(program, name, "exec"), names)
        if shown:
            assert printed.getvalue() == shown


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    folder = (ROOT / name).parent
    assert [link for link in LINK.findall(_read(name)) if not (folder / link).exists()] == []
