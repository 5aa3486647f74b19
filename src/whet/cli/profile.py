"""``whet profile``: where time and memory of a model go, and what would help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console

from whet import whole_files
from whet.cli import arrays, output
from whet.cli.opening import open_model
from whet.cli.parameters import (
    compiler_options,
    dim_option,
    json_option,
    parse_dims,
    read_options,
)
from whet.words import counted

if TYPE_CHECKING:
    from whet.measure.profile.advice import Finding
    from whet.measure.profile.counters import Counters
    from whet.measure.profile.launches import RunTimes
    from whet.measure.profile.memory_timeline import MemoryTimeline
    from whet.measure.profile.roofline import Roofline
    from whet.program.records import Program

SCHEMA = "whet.profile.1"


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """Everything that a profile finds out."""

    program: Program
    times: RunTimes
    roofline: Roofline
    memory: MemoryTimeline
    findings: tuple[Finding, ...]
    counters: Counters


@click.command("profile")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--input", "sources", multiple=True, default=("random",), metavar="SOURCE",
              help="As for whet run; random if not given.")  # fmt: skip
@click.option("--runs", type=click.IntRange(1), default=20, show_default=True)
@click.option("--top", type=click.IntRange(1), default=15, show_default=True,
              help="How many launches to show.")  # fmt: skip
@click.option("-o", "--output", "folder", type=click.Path(path_type=Path),
              help="Folder for op_summary.csv, op_statistic.csv, memory.csv, trace.json, "
              "profile.json.")  # fmt: skip
@dim_option
@compiler_options
@json_option
def command(model: Path, folder: Path | None, as_json: bool, top: int, **values: Any) -> None:
    """Profile MODEL, a .whet or an ONNX file, with time stamps from inside the generated code.

    Example: whet profile m.whet -o profile
    """
    if folder is not None:
        whole_files.make_folder(folder)
    found = _measure(model, values)
    if folder is not None:
        _write(folder, found, model)
    if as_json:
        output.print_json(as_facts(found, model), schema=SCHEMA)
        return
    print_profile(output.stdout(), found, top)
    if folder is not None:
        output.stdout().print(f"wrote {folder}", markup=False)


def _measure(path: Path, values: Mapping[str, Any]) -> Profile:
    model = open_model(path, *read_options(values))
    feeds = arrays.read_inputs(values["sources"], model.inputs, parse_dims(values["dims"]))
    return measure_profile(model, feeds, values["runs"])


def measure_profile(model: Any, feeds: Mapping[str, Any], runs: int) -> Profile:
    """Profile a compiled model.

    Args:
        model: the model.
        feeds: an array for each input.
        runs: profiled runs.
    """
    from whet.measure.machine import measure_limits
    from whet.measure.profile.advice import advise
    from whet.measure.profile.counters import count_events
    from whet.measure.profile.launches import profile_model
    from whet.measure.profile.memory_timeline import trace_memory
    from whet.measure.profile.roofline import place_launches

    times = profile_model(model, feeds, runs)
    counters = count_events(lambda: model.profile_runs(feeds, 1))
    roofline = place_launches(times, measure_limits(times.threads))
    return Profile(
        program=model.program,
        times=times,
        roofline=roofline,
        memory=trace_memory(model.program, times.dims, times.threads),
        findings=advise(model.program, times, roofline),
        counters=counters,
    )


def as_facts(found: Profile, path: Path) -> dict[str, Any]:
    """Return a profile as a JSON value."""
    from whet.measure.machine import describe_machine

    return {
        "model": str(path),
        "machine": msgspec.to_builtins(describe_machine()),
        "times": msgspec.to_builtins(found.times),
        "roofline": msgspec.to_builtins(found.roofline),
        "memory": msgspec.to_builtins(found.memory),
        "findings": msgspec.to_builtins(found.findings),
        "counters": msgspec.to_builtins(found.counters),
    }


def _write(folder: Path, found: Profile, path: Path) -> None:
    from whet.measure.profile import tables

    trace = tables.chrome_trace(found.times, found.memory, path.name)
    texts = {
        "op_summary.csv": tables.op_summary(found.program, found.times, found.roofline),
        "op_statistic.csv": tables.op_statistic(found.times),
        "memory.csv": tables.memory_table(found.memory),
        "trace.json": msgspec.json.encode(trace).decode(),
        "profile.json": output.json_text(as_facts(found, path), SCHEMA) + "\n",
    }
    for name, text in texts.items():
        output.write_text(folder / name, text)


def print_profile(console: Console, found: Profile, top: int) -> None:
    """Print the launches that take longest, the totals, memory and findings."""
    times, rates = found.times, found.roofline.rates
    longest = sorted(times.launches, key=lambda x: (-x.span_us, x.index))[:top]
    headers = ("launch", "us", "share", "wait us", "GFLOP/s", "GB/s", "of limit", "bound", "nodes")
    rows = []
    for launch in longest:
        rate = rates[launch.index]
        nodes = ", ".join(launch.nodes[:3]) + (", …" if len(launch.nodes) > 3 else "")
        rows.append((
            f"{launch.index} {'+'.join(dict.fromkeys(launch.ops))}", f"{launch.span_us:.1f}",
            f"{launch.share:.1%}", f"{launch.wait_us:.1f}", f"{rate.gflops:.1f}",
            f"{rate.gbytes:.1f}", f"{rate.efficiency:.0%}", rate.bound, nodes,
        ))  # fmt: skip
    title = (
        f"{counted(len(times.launches), 'launch', 'launches')}, "
        f"{counted(times.runs, 'run')}, {counted(times.threads, 'thread')}"
    )
    console.print(output.table(headers, rows, title=title))
    _print_totals(console, found)
    for number, finding in enumerate(found.findings[:10], 1):
        console.print(
            f"{number}. [{finding.severity}] {finding.message}; up to {finding.saves_us:.0f} us "
            f"a run. {finding.remedy}.",
            markup=False,
            soft_wrap=True,
        )


def _print_totals(console: Console, found: Profile) -> None:
    times, limits, memory = found.times, found.roofline.limits, found.memory
    flops = sum(launch.flops for launch in times.launches)
    rate = flops / max(times.plain_us, 1e-3) / 1e3
    peak = next(
        iter(b for b in memory.buffers if memory.at_peak and b.buffer == memory.at_peak[0]), None
    )
    counts = found.counters.counts
    figures = {
        "a run": f"{times.plain_us:.1f} us, with time stamps {times.overhead:+.1%}",
        "in launches": f"{times.covered:.1%} of the run",
        "arithmetic": f"{rate:.1f} of {limits.gflops:.0f} GFLOP/s measured",
        "memory limit": f"{limits.read_gbytes:.1f} GB/s measured",
        "arena": f"{output.format_bytes(memory.arena_bytes)}, without sharing "
        f"{output.format_bytes(memory.temporary_bytes)}",
        "peak": f"{output.format_bytes(memory.peak_bytes)} at launch {memory.peak_launch}"
        + (f", most of it {peak.name} ({output.format_bytes(peak.bytes)})" if peak else ""),
        "hardware counters": ", ".join(f"{n.replace('_', ' ')} {c:.4g}" for n, c in counts.items())
        or f"none: {found.counters.problem}",
    }
    for name, value in figures.items():
        console.print(f"{name:<22}{value}", markup=False, soft_wrap=True)
