"""``whet bench``: how fast a model runs, alone or against other runtimes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from whet.cli import arrays, exits, output
from whet.cli.opening import ReadyRunner, is_compiled, open_model
from whet.cli.parameters import compiler_options, dim_option, parse_dims, read_options
from whet.cli.progress import ProgressBar
from whet.errors import OptionError
from whet.measure.interleave import Plan, Samples, measure_interleaved
from whet.measure.machine import describe_machine
from whet.measure.peers import file_runner
from whet.measure.runner import Inputs, Runner
from whet.measure.statistics import Comparison, compare, noise_of, summarise

OURS = "whet"
SCHEMA = "whet.bench.1"


@click.command("bench")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--against", default="", metavar="NAMES", help="Other runtimes: ort,openvino.")
@click.option(
    "--onnx",
    "peer_model",
    type=click.Path(path_type=Path),
    help="The ONNX file that the others run, when MODEL is a .whet file.",
)
@click.option("--rounds", type=click.IntRange(1), default=30, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1), help="Stop after this time, whatever.")
@click.option(
    "--input",
    "sources",
    multiple=True,
    default=("random",),
    metavar="SOURCE",
    help="As for whet run; random if not given.",
)
@click.option("--json", "json_file", metavar="F", help="Write all figures to F; - for stdout.")
@click.option(
    "--require",
    type=click.FloatRange(0.0),
    metavar="RATIO",
    help="Exit with 1 unless every other runtime takes RATIO times as long or more.",
)
@dim_option
@compiler_options
@click.pass_context
def command(ctx: click.Context, /, model: Path, **values: Any) -> None:
    """Measure MODEL, an ONNX or .whet file, taking turns with other runtimes call by call.

    Example: whet bench m.onnx --against ort,openvino --threads 2 --json bench.json
    """
    json_file: str | None = values["json_file"]
    if json_file not in (None, "-"):
        output.check_writable(Path(json_file))
    found = _measure(model, values)
    if json_file != "-":
        _print(output.stdout(), found)
    if json_file == "-":
        output.print_json(found, schema=SCHEMA)
    elif json_file:
        text = output.json_text(found, SCHEMA) + "\n"
        output.write_whole(Path(json_file), lambda file: file.write(text.encode()))
    required = values["require"]
    if required is not None and any(c["ratio"] < required for c in found["comparisons"]):
        ctx.exit(exits.NEGATIVE)


def _measure(model: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Open the model in all runtimes and time them; returns a JSON value."""
    shapes, options = read_options(values)
    peers = _open_peers(model, values, options.thread_count)
    compiled = open_model(model, shapes, options)
    inputs = arrays.read_inputs(values["sources"], compiled.inputs, parse_dims(values["dims"]))
    for peer in peers:
        peer.prepare()
    runners: list[Runner] = [ReadyRunner(OURS, compiled.run), *peers]
    plan = Plan(rounds=values["rounds"], duration_s=values["seconds"], lead_in=1)
    with ProgressBar() as progress:
        samples = measure_interleaved(runners, [inputs], plan, progress)
    differences = _differences(runners, inputs)
    return {
        "model": str(model),
        "machine": msgspec.to_builtins(describe_machine()),
        "threads": compiled.stats.threads,
        "plan": asdict(plan),
        "noise": noise_of(samples),
        **_figures(samples, [peer.name for peer in peers]),
        "largest_difference": differences,
    }


def _open_peers(model: Path, values: dict[str, Any], threads: int) -> list[Runner]:
    """Name the other runtimes; nothing is loaded yet, but wrong names fail here."""
    names = list(dict.fromkeys(filter(None, values["against"].replace(" ", "").split(","))))
    source: Path | None = values["peer_model"] or (None if is_compiled(model) else model)
    if not names:
        return []
    if OURS in names:
        raise OptionError("Whet is always measured", hint=f"leave {OURS} out of --against")
    if source is None:
        raise OptionError(
            "other runtimes cannot run a .whet file", where=str(model), hint="give --onnx FILE"
        )
    return [file_runner(name, source, threads) for name in names]


def _figures(samples: Samples, peers: list[str]) -> dict[str, Any]:
    """Summarise times and comparisons as JSON values."""
    comparisons: list[Comparison] = [compare(samples, OURS, peer) for peer in peers]
    return {
        "times": {
            name: msgspec.to_builtins(summarise(seconds))
            for name, seconds in samples.seconds.items()
        },
        "comparisons": msgspec.to_builtins(comparisons),
        "seconds": msgspec.to_builtins(samples.seconds),
    }


def _differences(runners: list[Runner], inputs: Inputs) -> dict[str, float]:
    """Return by runtime how far its outputs are from ours, relative to the largest value."""
    ours = runners[0].run(inputs)
    result: dict[str, float] = {}
    for runner in runners[1:]:
        theirs = runner.run(inputs)
        result[runner.name] = max(arrays.difference(ours[name], theirs[name]) for name in ours)
    return result


def _print(console: Console, found: dict[str, Any]) -> None:
    """Print the figures for people."""
    headers = ["runtime", "best", "median", "p90", "runs/s", "time ÷ ours", "difference"]
    by_peer = {c["peer"]: c for c in found["comparisons"]}
    rows = []
    for name, times in found["times"].items():
        cells = [output.format_ms(times[key] / 1e3) for key in ("best_ms", "median_ms", "p90_ms")]
        row = [name, *cells, f"{1e3 / times['median_ms']:.1f}"]
        if name in by_peer:
            row += [_ratio(by_peer[name]), f"{found['largest_difference'][name]:.1e}"]
        rows.append(row)
    cpu, threads, noise = found["machine"]["cpu"], found["threads"], found["noise"]
    calls = next(iter(found["times"].values()))["calls"]
    title = f"{found['model']}: {threads} threads, {calls} rounds, {cpu}, machine {noise}"
    console.print(output.table(headers, rows, title=title))


def _ratio(comparison: dict[str, Any]) -> str:
    """Return the median ratio, its confidence interval and what that allows to say."""
    low, high = comparison["interval"]
    verdict = {"faster": "we are faster", "slower": "we are slower"}
    words = verdict.get(comparison["verdict"], comparison["verdict"])
    return f"{comparison['ratio']:.2f} ({low:.2f}–{high:.2f}, {words})"
