"""``whet check``: what a model needs, what runs where and what it costs, without compiling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from whet.check import Report, check
from whet.cli import output
from whet.cli.parameters import compiler_options, json_option, read_options
from whet.cli.pictures import preprocess_option, with_pictures


@click.command("check")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--assume",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="What open dimensions are taken as, for costs.",
)
@preprocess_option
@compiler_options
@json_option
def command(model: Path, assume: int, as_json: bool, **compiler: Any) -> int:
    """Say what of the ONNX file MODEL is supported, what runs where and what it costs.

    Exit codes: 0 all native, 1 native with caveats, 2 not supported.

    Example: whet check m.onnx --shape x:1,3,224,224
    """
    with with_pictures(model, compiler) as (file, given):
        shapes, options = read_options(given)
        report = check(file, shapes=shapes, options=options, assumed=assume)
    if as_json:
        output.print_json({"file": str(model)} | report.as_json(), schema="whet.check.1")
    else:
        _print(report)
    return report.verdict


def _print(report: Report) -> None:
    console = output.stdout()
    for problem in report.problems:
        place = f"{problem.node} ({problem.op})" if problem.op else problem.node
        console.print(f"unsupported  {place}: {problem.reason}", markup=False, soft_wrap=True)
    if report.problems:
        return
    for caveat in report.caveats:
        console.print(f"caveat  {caveat}", markup=False, soft_wrap=True)
    figures = {
        "runs": ", ".join(f"{count} {place}" for place, count in report.places.items()),
        "work": f"{report.flops / 1e9:.3f} GFLOP",
        "moved": output.format_bytes(report.moved_bytes),
        "weights": output.format_bytes(report.weight_bytes),
        "intermediate results": output.format_bytes(report.arena_bytes),
    }
    for name, value in figures.items():
        console.print(f"{name:<22}{value}", markup=False)
    rows = ((ops, str(count)) for ops, count in report.ops.items())
    console.print(output.table(("operators of a kernel", "launches"), rows))
