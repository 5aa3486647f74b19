"""``whet ascend-commands``: scripts with the names of Ascend's commands, in a folder you name."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import click

from whet import whole_files
from whet.cli import output
from whet.cli.parameters import json_option
from whet.compat.ascend import TOOLS
from whet.errors import ArtifactError, OptionError

SCHEMA = "whet.ascend_commands.1"
_MARK = "# written by whet ascend-commands"


@click.command("ascend-commands")
@click.option("--install", "install", type=click.Path(path_type=Path), metavar="DIR",
              help="Write a script for each command into DIR.")  # fmt: skip
@click.option("--remove", "remove", type=click.Path(path_type=Path), metavar="DIR",
              help="Remove the scripts that --install wrote into DIR.")  # fmt: skip
@json_option
def command(install: Path | None, remove: Path | None, as_json: bool) -> None:
    """Install the commands of Ascend's tools (atc, benchmark, …) under their own names.

    Nothing is installed unless asked, and only into a folder that you name: files that are there
    already and not from Whet are left alone.

    Example: whet ascend-commands --install ~/whet-ascend
    """
    if (install is None) == (remove is None):
        raise OptionError(
            "say what to do with the scripts", hint="give --install DIR or --remove DIR"
        )
    folder = install or remove
    assert folder is not None
    done = _install(folder) if install is not None else _remove(folder)
    if as_json:
        facts = {"folder": str(folder), "installed": install is not None, "commands": done}
        output.print_json(facts, schema=SCHEMA)
        return
    console = output.stdout()
    verb = "wrote" if install is not None else "removed"
    console.print(f"{verb} {', '.join(done) or 'nothing'}", markup=False, soft_wrap=True)
    if install is not None:
        console.print(f"export PATH={shlex.quote(str(folder.resolve()))}:$PATH", markup=False)


def _install(folder: Path) -> list[str]:
    """Write all scripts, or none if one would replace a foreign file."""
    whole_files.make_folder(folder)
    foreign = [name for name in TOOLS if not _ours(folder / name)]
    if foreign:
        raise ArtifactError(
            f"there is another {foreign[0]} already",
            where=str(folder),
            hint="name an empty folder",
        )
    for name in TOOLS:
        path = folder / name
        output.write_text(path, _script(name))
        path.chmod(0o755)
        other = shutil.which(name)
        if other is not None and Path(other).resolve().parent != folder.resolve():
            output.note(f"note: {other} has the same name; the first one in PATH is taken")
    return list(TOOLS)


def _remove(folder: Path) -> list[str]:
    found = [name for name in TOOLS if (folder / name).is_file() and _ours(folder / name)]
    for name in found:
        try:
            (folder / name).unlink()
        except OSError as error:
            raise ArtifactError(
                f"cannot remove: {error.strerror}", where=str(folder / name), hint="check rights"
            ) from error
    return found


def _ours(path: Path) -> bool:
    """Tell whether a script is one of ours, or is not there."""
    if not os.path.lexists(path):
        return True
    try:
        return path.is_file() and _MARK in path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _script(name: str) -> str:
    """Return a shell script that runs this Python, wherever it is and whatever its path holds."""
    run = f"import sys; sys.argv.insert(1, '{name}'); from whet.cli.entry import main; main()"
    return f'#!/bin/sh\n{_MARK}\nexec {shlex.quote(sys.executable)} -c "{run}" "$@"\n'
