"""What profiling costs: time stamps on against off, and how much of a run the launches cover.

    python -m benchmarks.profiling --models resnet50,bert_base_128 --threads 1,2 --runs 40

Runs with and without stamps take turns in one process. ``stamps on`` is the median of their ratios
minus 1 with its 99 % interval; ``in launches`` is the time in which at least one launch is under
way over the time of the run with stamps. Stamps that are off cost a load and a branch a launch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import whet
from whet.measure.feeds import random_inputs
from whet.measure.profile.launches import dims_of, summarise_runs
from whet.measure.ranks import paired_estimate
from whet.measure.runner import Inputs
from whet.runtime.model import CompiledModel

CACHE = Path(__file__).parent / ".cache"
CONFIDENCE = 0.99
ON_LIMIT, COVER_LIMIT = 0.02, 0.05


def open_model(name: str, threads: int) -> tuple[CompiledModel, Inputs]:
    """Compile an exported model; returns it and inputs."""
    model = whet.compile(CACHE / f"{name}.onnx", options=whet.Options(threads=threads))
    return model, random_inputs(model.inputs, {}, seed=0)


def measure(name: str, threads: int, runs: int) -> str:
    """Return a line of the table."""
    model, feeds = open_model(name, threads)
    recorded = model.profile_runs(feeds, runs)
    times = summarise_runs(model.program, recorded, dims_of(model.program, feeds))
    ratios = np.log(recorded.wall_ns / recorded.plain_ns)
    on = paired_estimate(ratios, CONFIDENCE)
    missing = 1 - times.covered
    verdict = "ok" if np.expm1(on.middle) < ON_LIMIT and abs(missing) < COVER_LIMIT else "MISSED"
    return (
        f"| {name} | {threads} | {recorded.plain_ns.min() / 1e6:.2f} | {np.expm1(on.middle):+.2%} "
        f"({np.expm1(on.low):+.2%} to {np.expm1(on.high):+.2%}) | {times.covered:.1%} | {verdict} |"
    )


def main() -> None:
    """Measure all pairs of models and threads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="resnet50,bert_base_128")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--runs", type=int, default=40)
    given = parser.parse_args()
    print(
        "| model | threads | best ms | stamps on | in launches | |\n|---|---:|---:|---:|---:|---|"
    )
    for name in given.models.split(","):
        for threads in map(int, given.threads.split(",")):
            print(measure(name, threads, given.runs), flush=True)


if __name__ == "__main__":
    main()
