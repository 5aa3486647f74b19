"""``whet bench``: how fast a model runs, alone or against other runtimes."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from whet.cli import arrays, bench_report, exits, output
from whet.cli.bench_report import OURS, SCHEMA
from whet.cli.opening import (
    COMPILED_SUFFIX,
    CompiledModel,
    ReadyRunner,
    is_compiled,
    open_model,
)
from whet.cli.parameters import (
    MOST_AT_ONCE,
    NumberRange,
    compiler_options,
    dim_option,
    parse_dims,
    read_options,
)
from whet.cli.pictures import preprocess_option, with_pictures
from whet.cli.progress import ProgressBar
from whet.cli.subject import subject_of
from whet.errors import OptionError
from whet.measure.interleave import Plan, Samples, measure_interleaved
from whet.measure.machine import describe_machine
from whet.measure.memory import measure_memory
from whet.measure.peers import file_runner
from whet.measure.runner import Inputs, Runner, WhetRunner
from whet.measure.statistics import compare, noise_of, summarise
from whet.measure.streams import candidates, measure_streams, warm_until_stable
from whet.options import Options

_GOAL_S = 0.5
_STREAM_S = 3.0


@click.command("bench")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--against", default="", metavar="NAMES",
              help="Other runtimes or compiled files: ort,openvino,other.whet.")  # fmt: skip
@click.option("--onnx", "peer_model", type=click.Path(path_type=Path),
              help="The ONNX file that the others run, when MODEL is a .whet file.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1), default=40, show_default=True,
              help="Calls of each runtime; 40 or more give blocks of 4.")  # fmt: skip
@click.option("--seconds", type=NumberRange(0.1), help="Stop after this time, whatever.")
@click.option("--streams", type=click.IntRange(1, MOST_AT_ONCE), metavar="N",
              help="Also measure N requests at once.")  # fmt: skip
@click.option("--goal", type=click.Choice(["latency", "throughput"]),
              help="Choose threads and streams by measurement.")  # fmt: skip
@click.option("--batch", type=click.IntRange(1), metavar="N",
              help="Size of an open first dimension.")  # fmt: skip
@click.option("--input", "sources", multiple=True, default=("random",), metavar="SOURCE",
              help="As for whet run; fresh random arrays if not given.")  # fmt: skip
@click.option("--feeds", type=click.IntRange(1, MOST_AT_ONCE), default=8, show_default=True,
              help="Different random inputs to take in turn.")  # fmt: skip
@click.option("--memory", is_flag=True,
              help="Also measure resident memory, in a process a runtime.")  # fmt: skip
@click.option("--advise", is_flag=True, help="Also say what bounds the model and what to try.")
@click.option("--json", "json_file", metavar="F", help="Write all figures to F; - for stdout.")
@click.option("--require", type=NumberRange(0.0), metavar="RATIO",
              help="Exit with 1 unless every other runtime takes RATIO times as long or "
              "more.")  # fmt: skip
@preprocess_option
@dim_option
@compiler_options
@click.pass_context
def command(ctx: click.Context, /, model: Path, **values: Any) -> None:
    """Measure MODEL, an ONNX or .whet file, taking turns with other runtimes call by call.

    Beside minimum, mean, median and percentiles of all calls, "of 4" is the median over blocks of
    4 calls in a row of the shortest: what the machine does besides lengthens it least. The ratios
    and their intervals come from the same blocks, as in whet compare.

    Example: whet bench m.onnx --against ort,openvino --threads 2 --json bench.json
    """
    json_file: str | None = values["json_file"]
    if json_file not in (None, "-"):
        output.check_writable(Path(json_file))
    with with_pictures(model, values) as (file, given):
        found = {**_measure(file, given), "model": str(model)}
    if json_file != "-":
        bench_report.print_findings(output.stdout(), found)
    if json_file == "-":
        output.print_json(found, schema=SCHEMA)
    elif json_file:
        output.write_text(Path(json_file), output.json_text(found, SCHEMA) + "\n")
    required = values["require"]
    if required is not None and any(c["block_ratio"] < required for c in found["comparisons"]):
        ctx.exit(exits.NEGATIVE)


def _measure(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Open the model in all runtimes and time them; returns a JSON value."""
    shapes, options = read_options(values)
    peers = _open_peers(path, values, options)
    compiled = open_model(path, shapes, options)
    dims = parse_dims(values["dims"]) | _batch_dims(compiled, values["batch"])
    feeds = arrays.read_feeds(values["sources"], compiled.inputs, dims, values["feeds"])
    goal = None
    if values["goal"] is not None:
        goal, compiled = _reach(values["goal"], path, (shapes, options), feeds)
    subject = None if values["preprocess"] else subject_of(path, compiled, values, dims)
    begun = datetime.now(UTC).isoformat(timespec="seconds")
    found = _time(compiled, path, feeds, peers, values)
    if subject is not None:
        subject.remember()
    streams = values["streams"] or (goal["streams"] if goal and goal["streams"] > 1 else None)
    names = [OURS, *(peer.name for peer in peers)]
    return {
        **found,
        "begun": begun,
        "subject": msgspec.to_builtins(subject),
        "machine": msgspec.to_builtins(describe_machine()),
        "goal": goal,
        "streams": _stream_figures(compiled, feeds, streams) if streams else None,
        "memory": _memory(path, names, feeds[0], values) if values["memory"] else None,
        "advice": _advice(compiled, feeds[0]) if values["advise"] else None,
    }


def measure_model(
    compiled: CompiledModel, path: Path, feeds: list[dict[str, Any]], values: dict[str, Any]
) -> dict[str, Any]:
    """Time a model that is open, against the runtimes of ``--against``; returns a JSON value.

    Args:
        compiled: the model.
        path: its file, for the other runtimes.
        feeds: inputs to take in turn.
        values: ``against``, ``rounds`` and the compiler's options, as the command line has them.
    """
    _, options = read_options(values)
    known = {"peer_model": None, "seconds": None, **values}
    return _time(compiled, path, feeds, _open_peers(path, known, options), known)


def _time(
    compiled: CompiledModel,
    path: Path,
    feeds: list[dict[str, Any]],
    peers: list[Runner],
    values: dict[str, Any],
) -> dict[str, Any]:
    """Time the model and the others in turn."""
    for peer in peers:
        peer.prepare()
    runners: list[Runner] = [ReadyRunner(OURS, compiled.run), *peers]
    warm = warm_until_stable(compiled.run, feeds)
    plan = Plan(rounds=values["rounds"], duration_s=values["seconds"], lead_in=1)
    with ProgressBar() as progress:
        samples = measure_interleaved(runners, feeds, plan, progress)
    return {
        "model": str(path),
        "threads": compiled.stats.threads,
        "plan": asdict(plan),
        "noise": noise_of(samples),
        "warm_up": msgspec.to_builtins(warm),
        **_figures(samples, [peer.name for peer in peers]),
        "largest_difference": _differences(runners, feeds[0]),
        "costs": _costs(compiled),
    }


def _open_peers(model: Path, values: dict[str, Any], options: Options) -> list[Runner]:
    """Name the other runtimes; nothing is loaded yet, but wrong names fail here."""
    names = list(dict.fromkeys(filter(None, values["against"].replace(" ", "").split(","))))
    if OURS in names:
        raise OptionError("Whet is always measured", hint=f"leave {OURS} out of --against")
    source: Path | None = values["peer_model"] or (None if is_compiled(model) else model)
    runners: list[Runner] = []
    for name in names:
        if name.endswith(COMPILED_SUFFIX):
            runners.append(WhetRunner(Path(name), options, name=name))
        elif source is None:
            raise OptionError(
                "other runtimes cannot run a .whet file", where=str(model), hint="give --onnx FILE"
            )
        else:
            runners.append(file_runner(name, source, options.thread_count))
    return runners


def _batch_dims(compiled: CompiledModel, batch: int | None) -> dict[str, int]:
    """Return the open first dimensions of the inputs at a batch size."""
    if batch is None:
        return {}
    first = {spec.shape[0] for spec in compiled.inputs if spec.shape}
    names = [dim for dim in first if isinstance(dim, str)]
    if not names:
        raise OptionError(
            f"the batch is fixed to {', '.join(map(str, sorted(first, key=str)))}",
            where="--batch",
            hint="leave it out, or export the model with an open batch",
        )
    return dict.fromkeys(names, batch)


def _reach(
    goal: str, path: Path, how: tuple[Any, Options], feeds: list[dict[str, Any]]
) -> tuple[dict[str, Any], CompiledModel]:
    """Measure threads and streams in all reasonable pairs; return the best and its model."""
    shapes, options = how
    tried: list[dict[str, Any]] = []
    best: CompiledModel | None = None
    for threads, streams in candidates(Options().thread_count):
        if goal == "latency" and streams > 1:
            continue
        compiled = open_model(path, shapes, replace(options, threads=threads))
        times = measure_streams(compiled.run, feeds, streams=streams, duration_s=_GOAL_S)
        median_ms = summarise(times.seconds).median_ms
        row = {"threads": threads, "streams": streams, "median_ms": median_ms,
               "per_second": times.per_second}  # fmt: skip
        if not tried or _better(goal, row, tried[0]):
            best, tried = compiled, [row, *tried]
        else:
            tried.append(row)
    assert best is not None, "one thread and one stream are always tried"
    return {"goal": goal, **tried[0], "tried": tried}, best


def _better(goal: str, row: dict[str, Any], other: dict[str, Any]) -> bool:
    if goal == "latency":
        return bool(row["median_ms"] < other["median_ms"])
    return bool(row["per_second"] > other["per_second"])


def _figures(samples: Samples, peers: list[str]) -> dict[str, Any]:
    """Summarise times and comparisons as JSON values."""
    comparisons = [compare(samples, OURS, peer) for peer in peers]
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


def _costs(compiled: CompiledModel) -> dict[str, Any]:
    stats = compiled.stats
    return {
        "compile_s": stats.compile_s,
        "arena_bytes": stats.arena_bytes,
        "weight_bytes": stats.weight_bytes,
        "code_bytes": stats.code_bytes,
        "launches": stats.launches,
    }


def _stream_figures(
    compiled: CompiledModel, feeds: list[dict[str, Any]], streams: int
) -> dict[str, Any]:
    times = measure_streams(compiled.run, feeds, streams=streams, duration_s=_STREAM_S)
    return {
        "streams": streams,
        "per_second": times.per_second,
        "times": msgspec.to_builtins(summarise(times.seconds)),
    }


def _memory(path: Path, names: list[str], inputs: Inputs, values: dict[str, Any]) -> dict[str, Any]:
    """Measure resident memory of every runtime that loads a file."""
    found: dict[str, Any] = {}
    for name in names:
        compiled = name == OURS or name.endswith(COMPILED_SUFFIX)
        model = path if name == OURS else values["peer_model"] or path
        if name.endswith(COMPILED_SUFFIX):
            model = Path(name)
        kind = OURS if compiled else name
        use = measure_memory(kind, model, inputs, threads=values["threads"])
        found[name] = msgspec.to_builtins(use)
    return found


def _advice(compiled: Any, inputs: Inputs) -> list[dict[str, Any]]:
    """Profile the model and return what is worth trying first."""
    from whet.measure.machine import measure_limits
    from whet.measure.profile.advice import advise
    from whet.measure.profile.launches import profile_model
    from whet.measure.profile.roofline import place_launches

    times = profile_model(compiled, inputs)
    roofline = place_launches(times, measure_limits(times.threads))
    findings = advise(compiled.program, times, roofline)[:3]
    result: list[dict[str, Any]] = msgspec.to_builtins(findings)
    return result
