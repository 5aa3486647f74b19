"""``whet reduce``: the smallest part of a model that still fails."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from whet.cli import exits, output
from whet.cli.accuracy import Case, accuracy_options, read_case
from whet.cli.parameters import json_option
from whet.cli.progress import ProgressBar
from whet.cli.reproduction import Reproduction, make_folder, write_folder
from whet.errors import OptionError
from whet.words import counted

if TYPE_CHECKING:
    from whet.measure.accuracy.reduce import Reduced

SCHEMA = "whet.reduce.1"


@click.command("reduce")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for the small model, its inputs and a one-line reproduction.",
)
@accuracy_options
@json_option
@click.pass_context
def command(ctx: click.Context, /, model: Path, folder: Path, **values: Any) -> None:
    """Cut the smallest failing part out of the ONNX file MODEL.

    A model fails if its outputs breach the limits of whet verify, or if it cannot be compiled. The
    exit code is 1 if it does.

    Example: whet reduce m.onnx --input x.npz -o failure
    """
    from whet.measure.accuracy.reduce import reduce_model

    if values["golden"] is not None:
        raise OptionError(
            "reduce needs golden values inside the model too",
            where="--golden",
            hint="use --reference ort or onnx",
        )
    case = read_case(model, values)
    make_folder(folder)
    with ProgressBar() as progress:
        found = reduce_model(
            case.model,
            case.feeds,
            case.recipe,
            limits=case.limits,
            reference=case.reference,
            progress=progress,
        )
    facts = _facts(case, found)
    line = ""
    if found is not None:
        line = _write(folder, case, found)
        facts |= {"folder": str(folder), "reproduce": line}
    if values["as_json"]:
        output.print_json(facts, schema=SCHEMA)
    else:
        _print(found, folder, line)
    if found is not None:
        ctx.exit(exits.NEGATIVE)


def _facts(case: Case, found: Reduced | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"model": str(case.path), "failure": None}
    if found is None:
        return facts
    return facts | {
        "failure": msgspec.to_builtins(found.failure),
        "nodes": list(found.nodes),
        "nodes_before": found.nodes_before,
        "reference": found.golden.source,
        "trials": found.trials,
    }


def _write(folder: Path, case: Case, found: Reduced) -> str:
    content = Reproduction(
        model=found.model,
        feeds=found.feeds,
        golden=found.golden.values,
        recipe=case.recipe,
        limits=case.limits,
        report=_facts(case, found),
        texts={},
    )
    return write_folder(folder, content, SCHEMA)


def _print(found: Reduced | None, folder: Path, line: str) -> None:
    console = output.stdout()
    if found is None:
        console.print("The model does not fail: nothing to reduce.")
        return
    console.print(f"failure: {found.failure.message}", markup=False, soft_wrap=True)
    console.print(
        f"still failing: {len(found.model.graph.node)} of {counted(found.nodes_before, 'node')} "
        f"({counted(found.trials, 'compilation')}): {', '.join(found.nodes)}",
        markup=False,
        soft_wrap=True,
    )
    console.print(f"in {folder}: {line}", markup=False, soft_wrap=True)
