"""The ``whet`` command: finds the subcommand, turns errors into one message and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import cast

import click

from whet import __version__
from whet.cli import exits
from whet.errors import WhetError, nearest

# Name, and what the menu says; the module of the same name is imported when the command is used.
_COMMANDS = {
    "compile": "Compile an ONNX model to a .whet file.",
    "quantize": "Quantise an ONNX model, within a promise about its accuracy.",
    "tune": "Find schedules that are faster on this machine.",
    "optimize": "Optimise the graph of an ONNX model, for any runtime.",
    "check": "Say what of an ONNX model is supported and what it costs, without compiling.",
    "run": "Run a model once and show or save its outputs.",
    "bench": "Measure a model, against other runtimes if asked.",
    "compare": "Say whether one model is faster than another, with the doubt stated.",
    "inspect": "Show what is inside an ONNX model or a .whet file.",
    "verify": "Compare a compiled model with what the ONNX file means.",
    "bisect": "Find the pass and the rewrite that make a model fail.",
    "reduce": "Cut the smallest failing part out of a model.",
    "report": "Write one page about a model: graph, speed, memory, accuracy, advice.",
    "migrate": "Assess, compile, verify, measure and judge a model, step by step.",
    "profile": "Show where time and memory of a model go, and what would help.",
    "llm": "Run language models: complete, chat, measure.",
    "demo": "Compile, check and time ResNet-50; needs no files and no network.",
    "ascend-commands": "Install the commands of Ascend's tools under their own names.",
    "doctor": "Show what this machine offers and what is missing.",
}


_MODULES = {"report": "report_command", "ascend-commands": "ascend_commands"}
"""Modules that are not called like their command."""

_FOREIGN = {
    "atc": "Ascend's model compiler.",
    "benchmark": "Ascend's and MindSpore Lite's benchmark.",
    "graph_opt": "Ascend's graph optimiser.",
    "perf_compare": "Ascend's comparison of two measurements.",
    "msprof": "Ascend's profiler.",
    "converter_lite": "MindSpore Lite's converter.",
    "aoe": "Ascend's tuner.",
}


class _LazyGroup(click.Group):
    """A group whose commands are imported one at a time, so that ``whet --version`` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_COMMANDS, *_FOREIGN]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _FOREIGN:
            return cast(click.Command, import_module("whet.cli.foreign").foreign_command(cmd_name))
        if cmd_name not in _COMMANDS:
            return None
        module = _MODULES.get(cmd_name, cmd_name)
        command = cast(click.Command, import_module(f"whet.cli.{module}").command)
        if not any(option.name == "traceback" for option in command.params):
            command.params.append(_traceback_option())
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of a line; an unknown one is answered with the nearest name."""
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"No such command {name!r}: {nearest(name, known)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))
        with formatter.section("Commands of other tools, with their options"):
            formatter.write_dl(list(_FOREIGN.items()))


def _traceback_option() -> click.Option:
    """Declare ``--traceback``; ``main`` looks for it, as an error may come before any callback."""
    return click.Option(
        ["--traceback"],
        is_flag=True,
        expose_value=False,
        help="Show the full traceback of an error.",
    )


@click.group(cls=_LazyGroup, params=[_traceback_option()])
@click.version_option(__version__, prog_name="whet")
def whet_command() -> None:
    """Turn a trained model into fast, small native code on the machine you have.

    Exit codes: 0 success, 1 negative verdict, 2 usage, 3 model, 4 input, 5 compiled file or target,
    70 internal error, 130 interrupted.
    """


def run_command(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; no exception escapes but with --traceback."""
    # Of a faulty model it logs a part of what our error says, in front of it.
    logging.getLogger("onnx_ir").addHandler(logging.NullHandler())
    try:
        result = whet_command.main(list(arguments), prog_name="whet", standalone_mode=False)
    except BrokenPipeError:
        # The reader of our output went away; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.CLOSED_PIPE
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return exits.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return exits.USAGE
    except Exception as error:
        if "--traceback" in arguments:
            raise
        return _report(error)
    return result if isinstance(result, int) else exits.OK


def _report(error: Exception) -> int:
    """Write one message about an error to stderr and return the exit code."""
    if isinstance(error, WhetError):
        click.echo(f"error: {error}", err=True)
        return exits.exit_code(error)
    if isinstance(error, MemoryError):
        click.echo("error: not enough memory", err=True)
        return exits.ARTIFACT
    click.echo(f"internal error: {type(error).__name__}: {error}", err=True)
    click.echo("  hint: this is a bug in Whet; run again with --traceback to see where", err=True)
    return exits.INTERNAL


def main() -> None:
    """Run the command line of this process."""
    sys.exit(run_command(sys.argv[1:]))


if __name__ == "__main__":
    main()
