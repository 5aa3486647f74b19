"""``whet tune``: schedules that are faster on this machine, kept in a file."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console

from whet.cli import arrays, output
from whet.cli.opening import compile_file, is_compiled, renewable
from whet.cli.parameters import (
    NumberRange,
    compiler_options,
    dim_option,
    json_option,
    parse_dims,
    read_options,
)
from whet.cli.progress import ProgressBar
from whet.errors import ArtifactError, OptionError
from whet.whole_files import is_stream
from whet.words import counted

if TYPE_CHECKING:
    from whet.kernel.tuning import Tuning
    from whet.measure.versus import Versus

SCHEMA = "whet.tune.1"
_FEEDS = 4
_COMPARE_S = 60.0


@click.command("tune")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", "file", type=click.Path(path_type=Path), metavar="F",
              help="The tuning file; MODEL's name with .tuning.json if not given.")  # fmt: skip
@click.option("--seconds", type=NumberRange(0.0), default=300.0, show_default=True,
              help="Begin no trial after this time.")  # fmt: skip
@click.option("--restart", is_flag=True, help="Forget what the tuning file has.")
@click.option("--input", "sources", multiple=True, default=("random",), metavar="SOURCE",
              help="As for whet run; random if not given.")  # fmt: skip
@dim_option
@compiler_options
@json_option
def command(model: Path, file: Path | None, seconds: float, **values: Any) -> None:
    """Try schedules of MODEL's products, and keep those that are faster here in a file.

    The file is taken up again if it is there, also for another model: what was tried is not tried
    twice. Compile with it: whet compile m.onnx --tuning m.tuning.json.

    Example: whet tune m.onnx --seconds 120 --threads 2
    """
    target = file or Path(model.name).with_suffix(".tuning.json")
    output.check_writable(target)
    if is_stream(target):
        raise ArtifactError(
            "a tuning file is read again", where=str(target), hint="name a file with -o"
        )
    facts, tuning = tune_file(model, target, seconds, values)
    if values["as_json"]:
        output.print_json(facts, schema=SCHEMA)
    else:
        _print(output.stdout(), facts, tuning)


def tune_file(
    model: Path, target: Path, seconds: float, values: dict[str, Any]
) -> tuple[dict[str, Any], Tuning]:
    """Tune a model and write what is found to a file; returns a JSON value, and all that is known.

    Args:
        model: the ONNX file.
        target: the tuning file.
        seconds: no trial begins after this time.
        values: ``sources``, ``dims``, ``restart`` and the compiler's options.
    """
    from whet.kernel.tuning import Tuning, read_tuning
    from whet.tune.tune import Subject, tune

    if is_compiled(model):
        raise OptionError("a compiled file has its schedules", where=str(model),
                          hint="tune the ONNX file, and compile it again")  # fmt: skip
    shapes, options = read_options(values)
    plain = compile_file(model, shapes, replace(options, tuning=""))
    feeds = arrays.read_feeds(values["sources"], plain.inputs, parse_dims(values["dims"]), _FEEDS)
    known = Tuning() if values["restart"] or not target.exists() else read_tuning(target)
    subject = Subject(model, shapes, options, feeds[0])

    def save(tuning: Tuning) -> None:
        output.write_text(target, tuning.text())

    started = time.perf_counter()
    with ProgressBar() as progress:
        found = tune(subject, known, seconds=seconds, save=save, progress=progress)
    save(found)
    spent = time.perf_counter() - started
    versus = None
    if found.answers():
        tuned = compile_file(model, shapes, replace(options, tuning=target))
        versus = _compare(plain, tuned, feeds)
    facts = _facts((known, found), versus)
    return {"model": str(model), "tuning": str(target), "seconds": spent, **facts}, found


def _compare(plain: Any, tuned: Any, feeds: Any) -> Versus:
    from whet.measure.versus import Ends, compare_runners

    a, b = renewable("A", plain), renewable("B", tuned)
    with ProgressBar() as progress:
        return compare_runners(a, b, feeds, Ends(seconds=_COMPARE_S), progress)


def _facts(before_after: tuple[Tuning, Tuning], versus: Versus | None) -> dict[str, Any]:
    before, after = before_after
    trials = [sum(len(entry.tried) for entry in t.entries.values()) for t in before_after]
    return {
        "trials": trials[1] - trials[0],
        "questions": len(after.entries),
        "improved": len(after.answers()),
        "improved_before": len(before.answers()),
        "comparison": None if versus is None else msgspec.to_builtins(versus),
        "entries": msgspec.to_builtins(after.entries),
    }


def _print(console: Console, facts: dict[str, Any], tuning: Tuning) -> None:
    from whet.kernel.tuning import describe

    rows = [
        (key.partition(" | ")[0], f"{entry.default_us:.1f}", f"{entry.tuned_us:.1f}",
         f"{entry.default_us / entry.tuned_us:.2f}" if entry.tuned_us else "",
         describe(entry.answer))
        for key, entry in sorted(tuning.entries.items()) if entry.answer is not None
    ]  # fmt: skip
    if rows:
        headers = ("what", "default us", "tuned us", "ratio", "schedule")
        console.print(output.table(headers, rows))
    console.print(
        f"{counted(facts['trials'], 'schedule')} tried; one faster than the default is known for "
        f"{facts['improved']} of {counted(facts['questions'], 'kind')} of products.",
        soft_wrap=True,
    )
    versus = facts["comparison"]
    if versus is not None:
        console.print(
            f"The model takes {versus['ratio']:.4f} times as long as before ({versus['low']:.4f} "
            f"to {versus['high']:.4f}): {versus['verdict']}.",
            soft_wrap=True,
        )
    written = f"wrote {facts['tuning']}; compile with --tuning {facts['tuning']}"
    console.print(written, markup=False, soft_wrap=True)
