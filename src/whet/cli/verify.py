"""``whet verify``: is the result right, and if not, which node is the first to be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console

import whet
from whet.cli import exits, output
from whet.cli.accuracy import Case, accuracy_options, golden_of, read_case
from whet.cli.opening import Array, is_compiled
from whet.cli.parameters import json_option
from whet.cli.pictures import preprocess_option, with_pictures
from whet.cli.progress import ProgressBar
from whet.errors import OptionError
from whet.words import counted

if TYPE_CHECKING:
    from whet.measure.accuracy.layers import LayerReport, LayersReport
    from whet.measure.accuracy.limits import Breach
    from whet.measure.accuracy.metrics import Metrics
    from whet.measure.accuracy.verify import OutputReport

SCHEMA = "whet.verify.1"
_SHOWN = ("cosine", "max_abs", "max_scaled", "mean_relative", "rmse", "relative_euclidean", "kl")


@click.command("verify")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("subject", type=click.Path(path_type=Path), required=False)
@click.option(
    "--per-layer", is_flag=True, help="Compare every value of the model, not outputs only."
)
@preprocess_option
@accuracy_options
@json_option
@click.pass_context
def command(ctx: click.Context, /, model: Path, subject: Path | None, **values: Any) -> None:
    """Compare what SUBJECT computes with what the ONNX file MODEL means.

    SUBJECT is a .whet file or another ONNX file; without it, MODEL is compiled. The exit code is 1
    if a limit is exceeded.

    Example: whet verify m.onnx m.whet --per-layer --threshold cosine=0.999
    """
    with with_pictures(model, values) as (file, given):
        case = read_case(file, given, subject)
        if values["per_layer"]:
            _verify_layers(ctx, case, subject, named=model, as_json=values["as_json"])
            return
        from whet.measure.accuracy.verify import passed, verify_outputs

        golden = golden_of(case)
        reports = verify_outputs(_run_subject(case, subject), golden, case.limits)
    right = passed(reports)
    if values["as_json"]:
        facts = {**_facts(case, (model, subject), golden.source), "passed": right}
        output.print_json({**facts, "outputs": msgspec.to_builtins(reports)}, schema=SCHEMA)
    else:
        _print_outputs(output.stdout(), reports, golden.source)
    if not right:
        ctx.exit(exits.NEGATIVE)


def _facts(case: Case, named: tuple[Path, Path | None], reference: str) -> dict[str, Any]:
    model, subject = named
    return {
        "model": str(model),
        "subject": str(subject) if subject else None,
        "reference": reference,
        "options": case.recipe.options.as_dict(),
    }


def _run_subject(case: Case, subject: Path | None) -> dict[str, Array]:
    """Run the program that is judged."""
    from whet.measure.accuracy.graphs import input_names, read_proto
    from whet.measure.accuracy.reference import run_golden

    if subject is None:
        return case.recipe.run(case.path, case.feeds)
    if is_compiled(subject):
        program = whet.load(subject, case.recipe.options.threads or None)
        taken = [spec.name for spec in program.inputs if spec.name in case.feeds]
        return program.run({name: case.feeds[name] for name in taken})
    other = read_proto(subject)
    feeds = {name: case.feeds[name] for name in input_names(other) if name in case.feeds}
    return run_golden(other, feeds, case.reference).values


def _print_outputs(console: Console, reports: tuple[OutputReport, ...], source: str) -> None:
    headers = ("output", "type", *(name.replace("_", " ") for name in _SHOWN), "max ULP", "")
    rows = [
        (r.name, r.metrics.dtype, *_figures(r.metrics), _ulp(r.metrics), _verdict(r.breaches))
        for r in reports
    ]
    console.print(output.table(headers, rows, title=f"against {source}"))
    for report in reports:
        notes = [report.note] if report.note else []
        for line in (*notes, *_explain(report.metrics, report.breaches)):
            console.print(f"{report.name}: {line}", markup=False, soft_wrap=True)


def _figures(metrics: Metrics) -> list[str]:
    return [f"{getattr(metrics, name):.3g}" for name in _SHOWN]


def _ulp(metrics: Metrics) -> str:
    return "" if metrics.max_ulp is None else f"{metrics.max_ulp:.0f}"


def _verdict(breaches: tuple[Breach, ...]) -> str:
    return "FAILED" if breaches else "ok"


def _explain(metrics: Metrics, breaches: tuple[Breach, ...]) -> list[str]:
    if metrics.problem:
        return [metrics.problem]
    lines = [f"{b.metric} is {b.value:.4g}, the limit {b.limit:.4g}" for b in breaches
             if b.value is not None and b.limit is not None]  # fmt: skip
    if metrics.first_not_finite is not None:
        lines.append(
            "NaN or infinite in one and not in the other: "
            f"{counted(metrics.not_finite_mismatches, 'element')}, "
            f"the first at {list(metrics.first_not_finite)}"
        )
    if breaches and metrics.worst is not None:
        lines.append(f"the largest error is at {list(metrics.worst)}")
    return lines


def _verify_layers(
    ctx: click.Context, case: Case, subject: Path | None, *, named: Path, as_json: bool
) -> None:
    from whet.measure.accuracy.layers import verify_layers

    recipe = case.recipe if subject is None else _recipe_of(case, subject)
    with ProgressBar() as progress:
        found = verify_layers(
            case.model,
            case.feeds,
            recipe=recipe,
            limits=case.limits,
            reference=case.reference,
            progress=progress,
        )
    if as_json:
        facts = {
            **_facts(case, (named, subject), found.reference),
            "passed": found.first_accumulated is None,
        }
        output.print_json({**facts, **msgspec.to_builtins(found)}, schema=SCHEMA)
    else:
        _print_layers(output.stdout(), found)
    if found.first_own or found.first_accumulated:
        ctx.exit(exits.NEGATIVE)


def _recipe_of(case: Case, subject: Path) -> Any:
    """Return how a compiled file was made, to make it again with its values exposed."""
    from whet.measure.accuracy.recipe import recipe_of

    if not is_compiled(subject):
        raise OptionError(
            "--per-layer looks into a compiled program",
            where=str(subject),
            hint="name a .whet file, or none",
        )
    return recipe_of(whet.load(subject, foreign=True).metadata, case.path)


def _print_layers(console: Console, found: LayersReport) -> None:
    headers = ("value", "node", "place", "own error", "accumulated", "cosine", "")
    rows = [_layer_row(layer) for layer in found.layers]
    console.print(output.table(headers, rows, title=f"against {found.reference}"))
    for note in found.notes:
        console.print(f"not looked at: {note}", markup=False, soft_wrap=True)
    console.print(_conclusion(found), markup=False, soft_wrap=True)


def _layer_row(layer: LayerReport) -> tuple[str, ...]:
    own = "" if layer.own is None else f"{layer.own.max_scaled:.2e}"
    accumulated = "" if layer.accumulated is None else f"{layer.accumulated.max_scaled:.2e}"
    cosine = "" if layer.accumulated is None else f"{layer.accumulated.cosine:.6f}"
    verdict = "WRONG" if layer.own_breaches else "off" if layer.breaches else ""
    place = layer.kernel or layer.place
    return (layer.value, f"{layer.node} ({layer.op})", place, own, accumulated, cosine, verdict)


def _conclusion(found: LayersReport) -> str:
    by_value = {layer.value: layer for layer in found.layers}
    if found.first_own is not None:
        layer = by_value[found.first_own]
        fused = (
            f", computed by {layer.kernel} with {', '.join(layer.group)}" if layer.kernel else ""
        )
        return f"The first wrong node is {layer.node} ({layer.op}), value {layer.value}{fused}."
    if found.first_accumulated is not None:
        layer = by_value[found.first_accumulated]
        return (
            f"No node is wrong by itself; rounding errors add up beyond the limits first at "
            f"{layer.node} ({layer.op}), value {layer.value}."
        )
    return f"Within their limits: all of {counted(len(found.layers), 'value')}."
