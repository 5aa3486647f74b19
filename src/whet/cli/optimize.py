"""``whet optimize``: the graph passes alone, from ONNX to ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console

from whet.cli import arrays, output
from whet.cli.parameters import (
    dim_option,
    json_option,
    parse_dims,
    parse_shapes,
    parse_switches,
)
from whet.cli.progress import ProgressBar
from whet.errors import OptionError
from whet.options import OPT_LEVELS, Options

if TYPE_CHECKING:
    from whet.measure.keep_faster import Trial
    from whet.optimize.optimize import OptimizeReport

SCHEMA = "whet.optimize.1"
_FEEDS = 4


@dataclass(frozen=True, slots=True)
class _Request:
    """What is asked: from the command line and the strategy file together."""

    source: Path
    target: Path
    opt_level: int
    passes: Mapping[str, bool | int]
    shapes: Mapping[str, tuple[int | str, ...]]
    opset: int | None


@click.command("optimize")
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("-o", "--output", "target_file", type=click.Path(path_type=Path),
              help="Optimised ONNX file; MODEL's name with .opt.onnx if not given.")  # fmt: skip
@click.option("-O", "opt_level", type=click.IntRange(OPT_LEVELS[0], OPT_LEVELS[-1]),
              help="Optimisation level: 0 none, 1 clean-up, 2 fusion, 3 everything.")  # fmt: skip
@click.option("--pass", "passes", multiple=True, metavar="NAME=on|off|N",
              help="Switch one pass, or stop it after N rewrites; may be repeated.")  # fmt: skip
@click.option("--switch-file", type=click.Path(path_type=Path), metavar="F",
              help="A file of switches: lines of NAME:off, or JSON.")  # fmt: skip
@click.option("--config", "config_file", type=click.Path(path_type=Path), metavar="F",
              help="A strategy file, optimization_config.json.")  # fmt: skip
@click.option("--shape", "shapes", multiple=True, metavar="NAME:DIMS",
              help="Fix an input's shape, such as input:1,3,224,224; may be repeated.")  # fmt: skip
@click.option("--opset", type=int, metavar="N",
              help="Opset of the result; by default the lowest that has all it uses.")  # fmt: skip
@click.option("--report", "report_file", type=click.Path(path_type=Path), metavar="F",
              help="Write the report to F as JSON.")  # fmt: skip
@click.option("--keep-if-faster", is_flag=True,
              help="Keep a rewrite only if it measures faster here, on random inputs.")  # fmt: skip
@dim_option
@json_option
def command(as_json: bool, report_file: Path | None, **values: Any) -> None:
    """Optimise the graph of the ONNX file MODEL, for Whet or any other runtime.

    Example: whet optimize m.onnx -o m.opt.onnx --pass fuse_gelu=off --report report.json
    """
    request = _read_request(values)
    for path in (request.target, report_file):
        if path is not None:
            output.check_writable(path)
    trials: tuple[Trial, ...] = ()
    if values["keep_if_faster"]:
        request, trials = _keep_faster(request, parse_dims(values["dims"]))
    from whet.graph.save import save_graph
    from whet.optimize.optimize import optimize_graph

    made = optimize_graph(
        request.source,
        shapes=request.shapes or None,
        opt_level=request.opt_level,
        passes=request.passes,
        opset=request.opset,
    )
    save_graph(made.model, request.target)
    facts = {
        "model": str(request.source),
        "output": str(request.target),
        "options": {"opt_level": request.opt_level, "passes": dict(request.passes)},
        **msgspec.to_builtins(made.report),
        "trials": msgspec.to_builtins(trials),
    }
    if report_file is not None:
        output.write_text(report_file, output.json_text(facts, SCHEMA) + "\n")
    if as_json:
        output.print_json(facts, schema=SCHEMA)
        return
    print_report(output.stdout(), made.report)
    for trial in trials:
        output.stdout().print(
            f"{trial.name}: {'kept' if trial.kept else 'switched off'}, with it a run takes "
            f"{trial.versus.ratio:.3f} times as long ({trial.versus.verdict})",
            markup=False,
            soft_wrap=True,
        )
    output.stdout().print(f"wrote {request.target}", markup=False)


def _read_request(values: Mapping[str, Any]) -> _Request:
    """Put the command line over the switch file, and that over the strategy file."""
    from whet.optimize.strategy import Strategy, read_strategy
    from whet.optimize.switches import read_switches

    config: Path | None = values["config_file"]
    strategy = read_strategy(config) if config else Strategy()
    source: Path | None = values["model"] or strategy.input_model
    if source is None:
        raise OptionError("no model is named", hint="give MODEL, or model_info in --config")
    switch_file: Path | None = values["switch_file"]
    switches: dict[str, bool | int] = dict(strategy.passes)
    if switch_file is not None:
        switches |= read_switches(switch_file)
    level = values["opt_level"]
    named = values["target_file"] or (strategy.output_model if values["model"] is None else None)
    return _Request(
        source=source,
        target=named or Path(f"{source.stem}.opt.onnx"),
        opt_level=strategy.opt_level if level is None else level,
        passes=switches | parse_switches(values["passes"]),
        shapes=strategy.shapes | (parse_shapes(values["shapes"]) or {}),
        opset=values["opset"],
    )


def _keep_faster(request: _Request, dims: Mapping[str, int]) -> tuple[_Request, tuple[Trial, ...]]:
    """Measure every rewrite that changes the model; return the request without those that lose."""
    from whet.measure.accuracy.recipe import Recipe
    from whet.measure.keep_faster import keep_faster
    from whet.optimize.optimize import optimize_graph
    from whet.passes.pipeline import REWRITES

    options = Options(opt_level=request.opt_level, passes=dict(request.passes))
    recipe = Recipe(options, request.shapes)
    report = optimize_graph(
        request.source,
        shapes=request.shapes or None,
        opt_level=request.opt_level,
        passes=request.passes,
    ).report
    acting = {p.name for p in report.passes if p.rewrites} & {entry.name for entry in REWRITES}
    names = [entry.name for entry in REWRITES if entry.name in acting]
    specs = recipe.compile(request.source).inputs
    feeds = arrays.read_feeds([arrays.RANDOM], specs, dims, _FEEDS)
    with ProgressBar() as progress:
        trials = keep_faster(request.source, recipe, feeds, names, progress=progress)
    lost = {trial.name: False for trial in trials if not trial.kept}
    return replace(request, passes={**request.passes, **lost}), trials


def print_report(console: Console, report: OptimizeReport) -> None:
    """Print what every pass did, and the graph before and after."""
    headers = ("pass", "runs", "rewrites", "nodes", "nodes saved", "MB saved", "MFLOP saved", "ms")
    rows = [
        (
            p.name, str(p.runs), str(p.rewrites), f"{p.nodes_before} → {p.nodes_after}",
            str(p.nodes_saved), f"{p.bytes_saved / 1e6:.2f}", f"{p.flops_saved / 1e6:.2f}",
            f"{p.seconds * 1e3:.1f}",
        )
        for p in report.passes
    ]  # fmt: skip
    console.print(output.table(headers, rows))
    before, after = report.before, report.after
    console.print(
        f"nodes {before.nodes} → {after.nodes}, memory traffic node by node "
        f"{before.bytes / 1e6:.1f} → {after.bytes / 1e6:.1f} MB, work {before.flops / 1e9:.3f} → "
        f"{after.flops / 1e9:.3f} GFLOP, opset {report.opset}",
        soft_wrap=True,
    )
