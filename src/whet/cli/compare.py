"""``whet compare``: is B faster or slower than A, with the doubt stated."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console

from whet.cli import arrays, exits, output
from whet.cli.opening import open_model, renewable
from whet.cli.parameters import (
    NumberRange,
    compiler_options,
    dim_option,
    json_option,
    parse_dims,
    read_options,
)
from whet.cli.progress import ProgressBar
from whet.cli.subject import Subject
from whet.errors import InputError
from whet.whole_files import read_whole
from whet.words import counted

if TYPE_CHECKING:
    from whet.measure.interleave import Samples
    from whet.measure.profile.differences import LaunchDifference
    from whet.measure.runner import Inputs
    from whet.measure.versus import Versus

SCHEMA = "whet.compare.1"
_FEEDS = 4
_PROFILED_RUNS = 10
_SHOWN = 10
_NAMES = ("whet", "whet")


@click.command("compare")
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
@click.option("--threshold", type=NumberRange(0.0), default=0.02, show_default=True,
              help="Slowdown of B, as a share, from which the exit code is 1.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(10), default=4000, show_default=True,
              help="Stop after so many calls of each, however wide the interval is.")  # fmt: skip
@click.option("--seconds", type=NumberRange(0.1), default=120.0, show_default=True,
              help="Begin no more calls after this time.")  # fmt: skip
@click.option("--input", "sources", multiple=True, default=("random",), metavar="SOURCE",
              help="As for whet run; random if not given.")  # fmt: skip
@click.option("--again/--no-again", "again", default=None,
              help="Whether the models that the files name are opened, which runs their code, and "
              "called in turn. If not given: only models that whet bench has measured here, where "
              "no runtime is in both files.")  # fmt: skip
@click.option("--html", "html_file", type=click.Path(path_type=Path), metavar="F",
              help="Write the comparison to F as a page.")  # fmt: skip
@dim_option
@compiler_options
@json_option
@click.pass_context
def command(ctx: click.Context, /, first: Path, second: Path, **values: Any) -> None:
    """Compare A with B: two models (.whet or ONNX), or two files that whet bench --json wrote.

    The exit code is 1 if B is slower beyond doubt and beyond --threshold.

    Example: whet compare before.whet after.whet --threshold 0.02 --html report.html
    """
    html_file: Path | None = values["html_file"]
    if html_file is not None:
        output.check_writable(html_file)
    written = first.suffix == ".json"
    if written != (second.suffix == ".json"):
        raise InputError(
            "a model cannot be compared with a measurement",
            where=f"{first}, {second}",
            hint="give two models, or two .json files of whet bench",
        )
    if written:
        found, launches = _from_files(first, second, values)
    else:
        found, launches = _measure(first, second, values)
    facts = {
        "a": str(first),
        "b": str(second),
        "threshold": values["threshold"],
        "regression": found.regresses(values["threshold"]),
        **msgspec.to_builtins(found),
        "launches": msgspec.to_builtins(launches),
    }
    if html_file is not None:
        from whet.report.comparison import comparison_page

        output.write_text(html_file, comparison_page(facts))
    if values["as_json"]:
        output.print_json(facts, schema=SCHEMA)
    else:
        _print(output.stdout(), (first, second), found, launches)
    if facts["regression"]:
        ctx.exit(exits.NEGATIVE)


Found = tuple["Versus", "tuple[LaunchDifference, ...]"]


def _measure(first: Path, second: Path, values: dict[str, Any]) -> Found:
    how, dims = read_options(values), parse_dims(values["dims"])
    models = [open_model(path, *how) for path in (first, second)]
    feeds = arrays.read_feeds(values["sources"], models[0].inputs, dims, _FEEDS)
    return _in_turn(models, (first, second), feeds, values)


def _in_turn(
    models: list[Any],
    paths: Sequence[Path],
    feeds: Sequence[Inputs],
    values: dict[str, Any],
) -> Found:
    """Call two open models in turn, and profile both."""
    from whet.measure.profile.differences import compare_launches
    from whet.measure.profile.launches import profile_model
    from whet.measure.versus import Ends, compare_runners

    ends = Ends(rounds=values["rounds"], seconds=values["seconds"])
    a, b = (renewable(*both) for both in zip("AB", models, paths, strict=True))
    with ProgressBar() as progress:
        found = compare_runners(a, b, feeds, ends=ends, progress=progress)
    times = [profile_model(model, feeds[0], _PROFILED_RUNS) for model in models]
    return found, compare_launches(times[0], times[1])


def _from_files(first: Path, second: Path, values: dict[str, Any]) -> Found:
    """Compare measurements made apart, by calling the models in turn where only that can tell."""
    from whet.measure.versus import compare_samples, yardsticks

    files = [_read_bench(path) for path in (first, second)]
    a, b = (file.samples() for file in files)
    apart = compare_samples(a, b, _NAMES)
    if yardsticks(a, b, _NAMES) and not values["again"]:
        return apart, ()
    subjects = [file.subject for file in files if file.subject is not None]
    reason = _why_not(subjects, values["again"])
    if reason:
        return msgspec.structs.replace(apart, note=f"{apart.note}; {reason}"), ()
    models = [subject.open() for subject in subjects]
    paths = [Path(subject.file) for subject in subjects]
    found, launches = _in_turn(models, paths, subjects[0].inputs(models[0]), values)
    return msgspec.structs.replace(found, note=_again(files, apart)), launches


def _why_not(subjects: Sequence[Subject], again: bool | None) -> str:
    """Say why the models of two files are not called in turn; empty if they may be."""
    if again is False:
        return "not called in turn, as asked"
    if len(subjects) < 2 or not all(subject.at_hand() for subject in subjects):
        return "the models are not there any more, or were changed"
    if again is None and not all(subject.was_measured_here() for subject in subjects):
        return "the models were not measured here: --again runs their code"
    return ""


def _again(files: Sequence[_BenchFile], apart: Versus) -> str:
    """Say why models were measured again, and what the files alone would have said."""
    begun = [datetime.fromisoformat(file.begun) for file in files]
    minutes = abs((begun[1] - begun[0]).total_seconds()) / 60
    return (
        f"the files were measured {minutes:.0f} min apart and say {apart.low:.2f} to "
        f"{apart.high:.2f}; both models are unchanged, so they were called in turn"
    )


class _BenchFile(msgspec.Struct):
    """The part of a file of ``whet bench`` that is compared."""

    seconds: dict[str, tuple[float, ...]]
    subject: Subject | None = None
    begun: str = "1970-01-01T00:00:00+00:00"

    def samples(self) -> Samples:
        """Return what was measured."""
        from whet.measure.interleave import Samples

        return Samples(seconds=self.seconds, wall_s=0.0, foreign_cpu=None)


def _read_bench(path: Path) -> _BenchFile:
    hint = "give a file that whet bench --json wrote"
    try:
        found = msgspec.json.decode(read_whole(path), type=_BenchFile)
        datetime.fromisoformat(found.begun)
    except OSError as error:
        raise InputError(
            f"cannot read: {error.strerror or error}", where=str(path), hint=hint
        ) from error
    except (msgspec.DecodeError, ValueError) as error:
        raise InputError(f"not a measurement: {error}", where=str(path), hint=hint) from error
    if not found.seconds.get("whet"):
        raise InputError("it has no times of whet", where=str(path), hint=hint)
    return found


def _print(
    console: Console,
    paths: tuple[Path, Path],
    found: Versus,
    launches: tuple[LaunchDifference, ...],
) -> None:
    how = f"{counted(found.rounds, 'round')} of calls in turn" if found.paired else found.note
    console.print(
        f"B takes {found.ratio:.4f} times as long as A "
        f"({found.low:.4f} to {found.high:.4f}, {found.confidence:.0%} confidence; {how}).",
        soft_wrap=True,
    )
    console.print(_times(found), soft_wrap=True)
    if found.paired and found.note:
        console.print(f"Measured again: {found.note}.", markup=False, soft_wrap=True)
    subject = f"{paths[1]} is {found.verdict} than {paths[0]}"
    plain = found.verdict == "no significant difference"
    console.print(found.verdict if plain else subject, markup=False, soft_wrap=True)
    if not found.precise:
        console.print("The interval did not become as narrow as asked: the machine is noisy.")
    if launches:
        headers = ("launch", "A us", "B us", "difference us", "nodes")
        rows = [
            ("+".join(d.ops), _us(d.first_us), _us(d.second_us), f"{d.difference_us:+.1f}",
             ", ".join(d.nodes[:3])) for d in launches[:_SHOWN]
        ]  # fmt: skip
        console.print(output.table(headers, rows))


def _times(found: Versus) -> str:
    """Return a sentence of both sides' times, those that the ratio is made of first."""
    what, (a, b) = "Median call", found.medians_ms
    if found.block > 1:
        what, (a, b) = f"Shortest of {found.block} calls, median", found.blocks_ms
    words = f"{what}: A {a:.3f} ms, B {b:.3f} ms; latency {found.ratio - 1:+.1%}"
    if found.block > 1:
        a, b = found.medians_ms
        words += f". Median of all calls: A {a:.3f} ms, B {b:.3f} ms ({b / a - 1:+.1%})"
    return f"{words}."


def _us(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
