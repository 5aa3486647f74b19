"""What profiling costs: time stamps on and off, and how much of a run the launches cover.

    python -m benchmarks.profiling --models resnet50,bert_base_128 --threads 1,2 --seconds 25

``off`` compares the program as it is with one whose code has no stamps at all, ``on`` runs with
stamps with the runs without between them. Calls take turns in one process until the 99 % interval
is narrow enough or the time is over (see ``whet.measure.versus``). ``in launches`` is the time in
which at least one launch is under way over the time of the run with stamps.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np

import whet
from whet.cli.opening import renewable
from whet.codegen.threads.sync import sync_text
from whet.measure.feeds import random_inputs
from whet.measure.profile.launches import dims_of, summarise_runs
from whet.measure.ranks import Estimate
from whet.measure.runner import Inputs
from whet.measure.versus import Ends, Rounds, block_estimate, compare_runners
from whet.program.context import ContextLayout
from whet.runtime.model import CompiledModel

CACHE = Path(__file__).parent / ".cache"
ON_LIMIT, COVER_LIMIT, PRECISION = 0.02, 0.05, 0.004
RUNS = 20
"""Pairs of runs between two looks at the interval."""

BEGIN = "%since = call i64 @whet.now(ptr %ctx)"
END = "call void @whet.record("


@contextmanager
def no_stamps() -> Iterator[None]:
    """Let drivers be written without time stamps."""

    def bare(layout: ContextLayout, architecture: str) -> str:
        text = sync_text(layout, architecture)
        if text.count(BEGIN) != 2:
            raise RuntimeError("the driver's text has changed: see BEGIN and END")
        lines = text.replace(BEGIN, "%since = add i64 0, 0").splitlines(keepends=True)
        return "".join(line for line in lines if END not in line)

    with patch("whet.codegen.threads.spmd.sync_text", bare):
        yield


def open_model(name: str, threads: int) -> CompiledModel:
    """Compile an exported model."""
    return whet.compile(CACHE / f"{name}.onnx", options=whet.Options(threads=threads))


@dataclass(frozen=True, slots=True)
class Stamped:
    """Runs with stamps beside runs without: how much longer they take, and what launches cover."""

    more: Estimate
    covered: float
    best_ms: float
    pairs: int


def measure_on(model: CompiledModel, feeds: Inputs, seconds: float) -> Stamped:
    """Profile until the interval is narrow enough or the time is over."""
    plain: list[float] = []
    stamped: list[float] = []
    covered: list[float] = []
    until = time.perf_counter() + seconds
    while True:
        recorded = model.profile_runs(feeds, RUNS)
        plain += recorded.plain_ns.tolist()
        stamped += recorded.wall_ns.tolist()
        covered.append(
            summarise_runs(model.program, recorded, dims_of(model.program, feeds)).covered
        )
        more, _ = block_estimate(Rounds(plain, stamped), PRECISION)
        if more.half_width <= PRECISION or time.perf_counter() >= until:
            return Stamped(more, float(np.median(covered)), min(plain) / 1e6, len(plain))


def measure(name: str, threads: int, seconds: float) -> str:
    """Return a line of the table."""
    model = open_model(name, threads)
    with no_stamps():
        bare = open_model(name, threads)
    feeds = random_inputs(model.inputs, {}, seed=0)
    on = measure_on(model, feeds, seconds)
    ends = Ends(precision=PRECISION, seconds=seconds)
    pair = renewable("bare", bare), renewable("off", model)
    off = compare_runners(*pair, [feeds], ends)
    missed = [
        what
        for what, wrong in (
            ("on", np.expm1(on.more.middle) >= ON_LIMIT),
            ("off", off.low > 1 + PRECISION),
            ("launches", abs(1 - on.covered) >= COVER_LIMIT),
        )
        if wrong
    ]
    return (
        f"| {name} | {threads} | {on.best_ms:.2f} | {_percent(on.more)} | "
        f"{off.ratio - 1:+.2%} ({off.low - 1:+.2%} to {off.high - 1:+.2%}) | {on.covered:.1%} | "
        f"{on.pairs} / {off.rounds} | {'missed: ' + ', '.join(missed) if missed else 'ok'} |"
    )


def _percent(more: Estimate) -> str:
    middle, low, high = (float(np.expm1(x)) for x in (more.middle, more.low, more.high))
    return f"{middle:+.2%} ({low:+.2%} to {high:+.2%})"


def main() -> None:
    """Measure all pairs of models and threads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="resnet50,bert_base_128")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--seconds", type=float, default=25.0, help="for each of on and off")
    given = parser.parse_args()
    print(
        "| model | threads | best ms | stamps on | stamps off | in launches | pairs | |\n"
        "|---|---:|---:|---:|---:|---:|---:|---|"
    )
    for name in given.models.split(","):
        for threads in map(int, given.threads.split(",")):
            print(measure(name, threads, given.seconds), flush=True)


if __name__ == "__main__":
    main()
