"""``whet compare``: is B faster or slower than A, with the doubt stated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console

from whet.cli import arrays, exits, output
from whet.cli.opening import ReadyRunner, open_model
from whet.cli.parameters import (
    compiler_options,
    dim_option,
    json_option,
    parse_dims,
    read_options,
)
from whet.cli.progress import ProgressBar
from whet.errors import InputError

if TYPE_CHECKING:
    from whet.measure.interleave import Samples
    from whet.measure.profile.differences import LaunchDifference
    from whet.measure.versus import Versus

SCHEMA = "whet.compare.1"
_FEEDS = 4
_PROFILED_RUNS = 10
_SHOWN = 10


@click.command("compare")
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
@click.option("--threshold", type=click.FloatRange(0.0), default=0.02, show_default=True,
              help="Slowdown of B, as a share, from which the exit code is 1.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(10), default=600, show_default=True,
              help="Stop after so many calls of each, however wide the interval is.")  # fmt: skip
@click.option("--input", "sources", multiple=True, default=("random",), metavar="SOURCE",
              help="As for whet run; random if not given.")  # fmt: skip
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
    found, launches = _from_files(first, second) if written else _measure(first, second, values)
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


def _measure(
    first: Path, second: Path, values: dict[str, Any]
) -> tuple[Versus, tuple[LaunchDifference, ...]]:
    from whet.measure.profile.differences import compare_launches
    from whet.measure.profile.launches import profile_model
    from whet.measure.versus import compare_runners

    how, dims = read_options(values), parse_dims(values["dims"])
    models: list[Any] = [open_model(path, *how) for path in (first, second)]
    feeds = arrays.read_feeds(values["sources"], models[0].inputs, dims, _FEEDS)
    a, b = (ReadyRunner(name, model.run) for name, model in zip("AB", models, strict=True))
    with ProgressBar() as progress:
        found = compare_runners(a, b, feeds, most_rounds=values["rounds"], progress=progress)
    times = [profile_model(model, feeds[0], _PROFILED_RUNS) for model in models]
    return found, compare_launches(times[0], times[1])


def _from_files(first: Path, second: Path) -> tuple[Versus, tuple[LaunchDifference, ...]]:
    from whet.measure.versus import compare_samples

    a, b = _read_samples(first), _read_samples(second)
    return compare_samples(a, b, ("whet", "whet")), ()


class _BenchFile(msgspec.Struct):
    """The part of a file of ``whet bench`` that is compared."""

    seconds: dict[str, tuple[float, ...]]


def _read_samples(path: Path) -> Samples:
    from whet.measure.interleave import Samples

    hint = "give a file that whet bench --json wrote"
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_BenchFile)
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror or error}", where=str(path)) from error
    except msgspec.DecodeError as error:
        raise InputError(f"not a measurement: {error}", where=str(path), hint=hint) from error
    if not found.seconds.get("whet"):
        raise InputError("it has no times of whet", where=str(path), hint=hint)
    return Samples(seconds=found.seconds, wall_s=0.0, foreign_cpu=None)


def _print(
    console: Console,
    paths: tuple[Path, Path],
    found: Versus,
    launches: tuple[LaunchDifference, ...],
) -> None:
    how = f"{found.rounds} rounds of calls in turn" if found.paired else found.note
    console.print(
        f"B takes {found.ratio:.4f} times as long as A "
        f"({found.low:.4f} to {found.high:.4f}, {found.confidence:.0%} confidence; {how}).",
        soft_wrap=True,
    )
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


def _us(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
