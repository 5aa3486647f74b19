"""``whet bisect``: which pass makes a model fail, and which of its rewrites."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console

from whet.cli import exits, output
from whet.cli.accuracy import Case, accuracy_options, golden_of, read_case
from whet.cli.parameters import json_option
from whet.cli.progress import ProgressBar
from whet.cli.reproduction import Reproduction, make_folder, write_folder
from whet.words import counted

if TYPE_CHECKING:
    from whet.measure.accuracy.bisect import Culprit

SCHEMA = "whet.bisect.1"


@click.command("bisect")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", "folder", type=click.Path(path_type=Path),
              help="Folder for model, inputs, report and a one-line reproduction.")  # fmt: skip
@accuracy_options
@json_option
@click.pass_context
def command(ctx: click.Context, /, model: Path, folder: Path | None, **values: Any) -> None:
    """Find the pass and the rewrite that make the ONNX file MODEL fail when it is compiled.

    A model fails if its outputs breach the limits of whet verify, or if it cannot be compiled. The
    exit code is 1 if it does.

    Example: whet bisect m.onnx --input x.npz -o failure
    """
    from whet.measure.accuracy.bisect import bisect_passes
    from whet.measure.accuracy.failure import Question

    case = read_case(model, values)
    if folder is not None:
        make_folder(folder)
    question = Question(case.feeds, golden_of(case), case.limits)
    with ProgressBar() as progress:
        found = bisect_passes(case.model, case.recipe, question, progress)
    facts = {"model": str(model), **msgspec.to_builtins(found)}
    line = ""
    if folder is not None and found.stage != "nothing":
        line = _write(folder, case, found, dict(question.golden.values))
        facts |= {"folder": str(folder), "reproduce": line}
    if values["as_json"]:
        output.print_json(facts, schema=SCHEMA)
    else:
        _print(output.stdout(), found)
        if line:
            output.stdout().print(f"in {folder}: {line}", markup=False, soft_wrap=True)
    if found.stage != "nothing":
        ctx.exit(exits.NEGATIVE)


def _write(folder: Path, case: Case, found: Culprit, golden: dict[str, Any]) -> str:
    level = found.level if found.stage in ("lowering", "kernel") else None
    content = Reproduction(
        model=case.model,
        feeds=case.feeds,
        golden=golden,
        recipe=case.recipe.switched(found.passes, level),
        limits=case.limits,
        report={"model": str(case.path), **msgspec.to_builtins(found)},
        texts={"change.diff": found.change + "\n"} if found.change else {},
    )
    return write_folder(folder, content, SCHEMA)


def _print(console: Console, found: Culprit) -> None:
    if found.failure is None:
        console.print("The model does not fail: nothing to search for.")
        return
    console.print(f"failure: {found.failure.message}", markup=False, soft_wrap=True)
    if found.stage == "pass":
        console.print(
            f"It comes with rewrite {found.rewrite} of the pass {found.name} "
            f"({counted(found.trials, 'compilation')}):",
            soft_wrap=True,
        )
        console.print(found.change, markup=False, soft_wrap=True)
        return
    where = f"It needs no optional pass and appears at level {found.level}: {found.name}."
    if found.stage == "kernel":
        where = "It appears at level 0, where every operator is a kernel of its own."
    console.print(where, soft_wrap=True)
    console.print("Next: whet verify --per-layer names the node, whet reduce cuts it out.")
