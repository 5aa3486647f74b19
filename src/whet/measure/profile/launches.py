"""What the time stamps of a program say: how long each launch takes, and where threads wait."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from whet.dtypes import DTYPES
from whet.program.records import Program
from whet.runtime.model import CompiledModel
from whet.runtime.profile import ProfiledRuns

Array = np.ndarray[Any, Any]
Stamps = np.ndarray[Any, np.dtype[np.int64]]


class LaunchTime(msgspec.Struct, frozen=True, kw_only=True):
    """One launch, over all profiled runs.

    Attributes:
        index: its place in the program.
        kernel: the kernel.
        nodes: the model's nodes that it computes.
        ops: their operator types.
        start_us: its begin after the run's, in the run of median length.
        span_us: from the first thread's begin to the last one's end; median of the runs.
        busy_us: time of all threads in it; median of the runs.
        wait_us: time of all threads between their previous launch and this one; median.
        balance: share of the span in which the threads work, 1 if all begin and end together.
        share: of the busy time of all launches.
        chunks: pieces into which it can be split.
        flops: floating-point operations.
        bytes: bytes read and written.
    """

    index: int
    kernel: str
    nodes: tuple[str, ...]
    ops: tuple[str, ...]
    start_us: float
    span_us: float
    busy_us: float
    wait_us: float
    balance: float
    share: float
    chunks: int
    flops: int
    bytes: int


class RunTimes(msgspec.Struct, frozen=True, kw_only=True):
    """A program's runs.

    Attributes:
        threads: threads of a run.
        runs: how many were profiled.
        wall_us: median duration of a profiled run.
        plain_us: median duration of the runs without time stamps between them.
        overhead: median ratio of a profiled run to the plain run beside it, minus 1.
        covered: share of the wall time in which a launch runs.
        launches: one record a launch.
        dims: values of the run-time dimensions.
        trace: time stamps of the run of median length, ns, (threads, launches, 2).
    """

    threads: int
    runs: int
    wall_us: float
    plain_us: float
    overhead: float
    covered: float
    launches: tuple[LaunchTime, ...]
    dims: dict[str, int]
    trace: list[list[list[int]]]


def profile_model(model: CompiledModel, feeds: Mapping[str, Array], runs: int = 20) -> RunTimes:
    """Profile a compiled model.

    Args:
        model: the model; it has to be runnable here.
        feeds: an array for each input.
        runs: profiled runs; as many plain runs are made in between.

    Raises:
        InputError: an array does not fit.
        TargetError: the code is for another machine.
    """
    recorded = model.profile_runs(feeds, runs)
    return summarise_runs(model.program, recorded, dims_of(model.program, feeds))


def dims_of(program: Program, feeds: Mapping[str, Array]) -> dict[str, int]:
    """Return the values of the run-time dimensions for a feed; 1 for those that data decide."""
    values: dict[str, int] = {}
    for spec in program.inputs:
        if spec.dtype not in DTYPES:  # texts and sequences say nothing about dimensions
            continue
        for dim, size in zip(spec.shape, np.shape(feeds[spec.name]), strict=True):
            if isinstance(dim, str) and dim in program.dims:
                values.setdefault(dim, int(size))
    return {name: values.get(name, 1) for name in program.dims}


def summarise_runs(program: Program, recorded: ProfiledRuns, dims: Mapping[str, int]) -> RunTimes:
    """Turn time stamps into figures."""
    stamps = recorded.stamps
    begins, ends = stamps[..., 0], stamps[..., 1]
    part = begins > 0
    first = np.where(part, begins, np.iinfo(np.int64).max).min(axis=1)
    last = ends.max(axis=1)
    spans = np.where(part.any(axis=1), last - first, 0)
    busy = np.where(part, ends - begins, 0).sum(axis=1)
    middle = _median_run(recorded.wall_ns)
    origin = int(first[middle].min()) if first.shape[1] else 0
    waits = _waits(begins, ends, part)
    total = float(np.median(busy, axis=0).sum()) or 1.0
    threads = stamps.shape[1]
    launches = tuple(
        LaunchTime(
            index=index,
            kernel=launch.kernel,
            nodes=launch.nodes,
            ops=launch.ops,
            start_us=max(0.0, (int(first[middle, index]) - origin) / 1e3)
            if part[middle, :, index].any()
            else 0.0,
            span_us=float(np.median(spans[:, index])) / 1e3,
            busy_us=float(np.median(busy[:, index])) / 1e3,
            wait_us=float(np.median(waits[:, index])) / 1e3,
            balance=_balance(busy[:, index], spans[:, index], threads),
            share=float(np.median(busy[:, index])) / total,
            chunks=launch.chunks.evaluate(dims),
            flops=launch.flops.evaluate(dims),
            bytes=launch.bytes.evaluate(dims),
        )
        for index, launch in enumerate(program.launches)
    )
    return RunTimes(
        threads=threads,
        runs=len(recorded.wall_ns),
        wall_us=float(np.median(recorded.wall_ns)) / 1e3,
        plain_us=float(np.median(recorded.plain_ns)) / 1e3,
        overhead=float(np.median(recorded.wall_ns / np.maximum(recorded.plain_ns, 1))) - 1,
        covered=_covered(first, last, recorded.wall_ns),
        launches=launches,
        dims=dict(dims),
        trace=stamps[middle].tolist(),
    )


def _median_run(wall_ns: Stamps) -> int:
    return int(np.argsort(wall_ns, kind="stable")[len(wall_ns) // 2])


def _balance(busy: Stamps, spans: Stamps, threads: int) -> float:
    whole = float(np.median(spans)) * threads
    return min(1.0, float(np.median(busy)) / whole) if whole else 1.0


def _waits(begins: Stamps, ends: Stamps, part: Array) -> Stamps:
    """Return ns that threads spent in front of each launch, since the launch they left last."""
    waits = np.zeros((begins.shape[0], begins.shape[2]), np.int64)
    left = np.zeros(begins.shape[:2], np.int64)
    for index in range(begins.shape[2]):
        here = part[:, :, index]
        gap = np.where(here & (left > 0), begins[:, :, index] - left, 0)
        waits[:, index] = np.maximum(gap, 0).sum(axis=1)
        left = np.where(here, ends[:, :, index], left)
    return waits


def _covered(first: Stamps, last: Stamps, wall_ns: Stamps) -> float:
    """Return the median share of a run in which at least one launch is under way."""
    shares = []
    for begins, ends, wall in zip(first, last, wall_ns, strict=True):
        total, reached = 0, 0
        for begin, end in sorted(zip(begins.tolist(), ends.tolist(), strict=True)):
            if end > 0:
                total += max(0, end - max(begin, reached))
                reached = max(reached, end)
        shares.append(total / wall)
    return float(np.median(shares)) if shares else 0.0
