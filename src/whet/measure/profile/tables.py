"""The tables and the timeline of a profile in forms that other tools open: CSV and Chrome trace."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from whet.measure.profile.launches import LaunchTime, RunTimes
from whet.measure.profile.memory_timeline import MemoryTimeline
from whet.measure.profile.operands import operand_columns
from whet.measure.profile.roofline import Roofline
from whet.program.records import Program

_SUMMARY = (
    "Op Name", "OP Type", "Task ID", "Kernel", "Task Start Time(us)", "Task Duration(us)",
    "Task Wait Time(us)", "Block Num", "Input Shapes", "Input Data Types", "Input Formats",
    "Output Shapes", "Output Data Types", "Output Formats", "Input Bytes", "Output Bytes", "FLOP",
    "GFLOP/s", "GB/s", "Ratio(%)", "Bound",
)  # fmt: skip
_STATISTIC = (
    "OP Type", "Count", "Total Time(us)", "Min Time(us)", "Avg Time(us)", "Max Time(us)",
    "Ratio(%)",
)  # fmt: skip
_MEMORY = ("Name", "Buffer", "Size(Bytes)", "Offset", "First Task ID", "Last Task ID", "Written by")


def op_summary(program: Program, times: RunTimes, roofline: Roofline) -> str:
    """Return one line a launch, in the order of the program, as CSV."""
    rows = []
    for launch, rate in zip(times.launches, roofline.rates, strict=True):
        read, written = _traffic(program, launch.index, times)
        rows.append((
            ";".join(launch.nodes), "+".join(launch.ops), launch.index, launch.kernel,
            f"{launch.start_us:.3f}", f"{launch.span_us:.3f}", f"{launch.wait_us:.3f}",
            launch.chunks, *operand_columns(program, program.launches[launch.index], times.dims),
            read, written, launch.flops, f"{rate.gflops:.2f}", f"{rate.gbytes:.2f}",
            f"{100 * launch.share:.2f}", rate.bound,
        ))  # fmt: skip
    return _csv(_SUMMARY, rows)


def op_statistic(times: RunTimes) -> str:
    """Return one line a kind of launch, the one with the most time first, as CSV."""
    groups: dict[str, list[float]] = {}
    for launch in times.launches:
        groups.setdefault("+".join(launch.ops), []).append(launch.span_us)
    whole = sum(launch.span_us for launch in times.launches) or 1.0
    rows = []
    for ops, spans in sorted(groups.items(), key=lambda item: (-sum(item[1]), item[0])):
        total = sum(spans)
        figures = (total, min(spans), total / len(spans), max(spans))
        share = f"{100 * total / whole:.2f}"
        rows.append((ops, len(spans), *(f"{figure:.3f}" for figure in figures), share))
    return _csv(_STATISTIC, rows)


def memory_table(timeline: MemoryTimeline) -> str:
    """Return one line a temporary, the largest first, as CSV."""
    buffers = sorted(timeline.buffers, key=lambda b: (-b.bytes, b.buffer))
    rows = [
        (b.name, b.buffer, b.bytes, b.offset, b.first, b.last, ";".join(b.writers)) for b in buffers
    ]
    return _csv(_MEMORY, rows)


def chrome_trace(times: RunTimes, timeline: MemoryTimeline, name: str) -> dict[str, Any]:
    """Return the run of median length as a trace that Chrome and Perfetto open.

    One row a thread, with every launch on it; below, the bytes that live in the arena.
    """
    begins = [span[0] for thread in times.trace for span in thread if span[0]]
    origin = min(begins, default=0)
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": name}}
    ]
    for number, thread in enumerate(times.trace):
        label = {"name": f"thread {number}"}
        events.append({"ph": "M", "pid": 1, "tid": number, "name": "thread_name", "args": label})
        events += [
            _event(times.launches[index], number, begin - origin, end - begin)
            for index, (begin, end) in enumerate(thread)
            if begin
        ]
    starts = [min((t[k][0] for t in times.trace if t[k][0]), default=0) for k in _indices(times)]
    for step in timeline.steps:
        if starts[step.first]:
            at = (starts[step.first] - origin) / 1e3
            value = {"bytes": step.live_bytes}
            events.append({"ph": "C", "pid": 1, "name": "live memory", "ts": at, "args": value})
    return {"traceEvents": events, "displayTimeUnit": "ns"}


def _indices(times: RunTimes) -> range:
    return range(len(times.launches))


def _event(launch: LaunchTime, thread: int, start_ns: int, length_ns: int) -> dict[str, Any]:
    facts = {
        "kernel": launch.kernel,
        "nodes": list(launch.nodes),
        "flops": launch.flops,
        "bytes": launch.bytes,
    }
    return {
        "ph": "X",
        "pid": 1,
        "tid": thread,
        "name": "+".join(launch.ops) or launch.kernel,
        "cat": launch.kernel.partition("_")[0],
        "ts": start_ns / 1e3,
        "dur": length_ns / 1e3,
        "args": facts,
    }


def _traffic(program: Program, index: int, times: RunTimes) -> tuple[int, int]:
    """Return the bytes of what a launch reads and of what it writes."""
    launch = program.launches[index]
    read = written = 0
    for position, buffer in enumerate(launch.args):
        size = program.buffers[buffer].size_bytes.evaluate(times.dims)
        if position in launch.writes:
            written += size
        elif position not in launch.fetched:
            read += size
    return read, written


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
