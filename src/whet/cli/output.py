"""How commands write: JSON or tables to stdout, everything else to stderr."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from whet import whole_files
from whet.errors import ArtifactError

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def stdout() -> Console:
    """Return a console for results; wide where nobody watches, so that nothing is cut off."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


def note(message: str) -> None:
    """Tell the user something that is not a result."""
    click.echo(message, err=True)


def json_text(value: Mapping[str, Any], schema: str) -> str:
    """Return one JSON document; numbers that are not finite, which JSON lacks, become null.

    Args:
        value: the content.
        schema: name and version of its form, such as ``whet.run.1``; the version changes when a
            field changes its meaning or goes, not when one is added.
    """
    return msgspec.json.format(msgspec.json.encode({"schema": schema, **value}), indent=2).decode()


def print_json(value: Mapping[str, Any], schema: str) -> None:
    """Print one JSON document to stdout; see ``json_text``."""
    click.echo(json_text(value, schema))


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "") -> Table:
    """Build a table whose first column is text and whose others are numbers, right-aligned.

    Cells are plain: names of nodes and files may hold brackets that look like Rich's markup.
    """
    result = Table(title=Text(title) if title else None, title_justify="left")
    for position, header in enumerate(headers):
        result.add_column(header, justify="right" if position else "left", overflow="fold")
    for row in rows:
        result.add_row(*map(Text, row))
    return result


def format_bytes(count: int) -> str:
    """Return a size in the unit that fits, such as ``97.5 MiB``."""
    size, unit = float(count), 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} B" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"


def format_ms(seconds: float) -> str:
    """Return a time in milliseconds: three digits that count, but no more than nanoseconds."""
    ms = seconds * 1e3
    digits = 0 if ms >= 1000 else 2 if ms >= 1 else 3 if ms >= 0.1 else 4 if ms >= 0.01 else 5
    return f"{ms:.{digits}f} ms"


def format_shape(shape: Sequence[int | str]) -> str:
    """Return a shape such as ``1×3×224×224``; a scalar is ``scalar``."""
    return "×".join(map(str, shape)) if shape else "scalar"


def check_writable(path: Path) -> None:
    """Fail now, not after minutes of work, when a file cannot be written where it should go.

    Raises:
        ArtifactError: the folder does not exist or is not writable, or ``path`` is a folder.
    """
    with whole_files.write_errors(path):
        if path.is_dir():
            raise ArtifactError("the output is a folder", where=str(path), hint="name a file in it")
    if not path.parent.is_dir():
        raise ArtifactError("no such folder", where=str(path.parent), hint="create it first")
    if not whole_files.is_stream(path) and not os.access(path.parent, os.W_OK):
        raise ArtifactError(
            "the folder is not writable", where=str(path.parent), hint="choose another with -o"
        )


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file, whole or not at all.

    Raises:
        ArtifactError: the file cannot be written.
    """
    check_writable(path)
    whole_files.write_whole(path, write)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        ArtifactError: the file cannot be written.
    """
    write_whole(path, lambda file: file.write(text.encode()))
