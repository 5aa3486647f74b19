"""Commands of other tools under their names: each says which ``whet`` command it stands for."""

from __future__ import annotations

import shlex
from contextlib import redirect_stdout
from io import StringIO

import click

from whet.cli import exits, output
from whet.compat.ascend import EXAMPLES, TOOLS
from whet.compat.translation import Translation


def foreign_command(name: str) -> click.Command:
    """Return the command that translates a tool's command line and runs what it means."""

    @click.command(
        name,
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
        help=f"Do what Ascend's {name} does, with its options; docs/ascend.md has them.\n\n"
        f"Example: whet {name} {EXAMPLES[name]}",
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    @click.pass_context
    def command(ctx: click.Context, arguments: tuple[str, ...]) -> None:
        meant = TOOLS[name]([word for word in arguments if word != "--traceback"])
        for note in meant.notes:
            output.note(f"note: {note}")
        for words in filter(None, (meant.before, meant.command)):
            output.note(f"this is: whet {shlex.join(words)}")
        if meant.first:
            click.echo(meant.first)
        code = _run(meant)
        if code == exits.OK:
            for line in filter(None, (meant.report() if meant.report else "", meant.last)):
                click.echo(line)
        ctx.exit(code)

    return command


def _run(meant: Translation) -> int:
    """Run what a command line means; what it prints goes to a file if asked."""
    from whet.cli.main import run_command

    if meant.before and (code := run_command(list(meant.before))) != exits.OK:
        return code
    if meant.save is None:
        code = run_command(meant.command)
    else:
        path, convert = meant.save
        output.check_writable(path)
        with redirect_stdout(StringIO()) as printed:
            code = run_command(meant.command)
        if printed.getvalue():
            output.write_text(path, convert(printed.getvalue()))
            output.note(f"wrote {path}")
    return exits.OK if code in meant.fine else code
