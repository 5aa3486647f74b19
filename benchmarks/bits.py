"""MatMulNBits against ONNX Runtime, call by call in turn: ``python -m benchmarks.bits``."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import onnxruntime as ort

import whet
from whet.measure.interleave import Plan, measure_interleaved
from whet.measure.runner import Inputs, Outputs, Runner
from whet.measure.statistics import compare, summarise
from whet.tests.test_contrib_bits import weights

PLAN = Plan(rounds=12, lead_in_s=0.02)


class _Side:
    """A runtime with a model of one accuracy level."""

    def __init__(self, name: str, call: Callable[[Inputs], Outputs]) -> None:
        self.name, self.run = name, call

    def prepare(self) -> None:
        """Do nothing: the model is loaded."""


def sides(size: int, block: int, threads: int) -> list[Runner]:
    """Return both runtimes with models of both levels."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    found: list[Runner] = []
    for level in (4, 0):
        model = weights(size, size, block=block, level=level).model
        session = ort.InferenceSession(model.SerializeToString(), options)
        compiled = whet.compile(model, options=whet.Options(threads=threads))
        found.append(_Side(f"Whet, level {level}", compiled))

        def run(inputs: Inputs, session: ort.InferenceSession = session) -> Outputs:
            return {"y": session.run(None, dict(inputs))[0]}

        found.append(_Side(f"ONNX Runtime, level {level}", run))
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--blocks", default="32,128")
    parser.add_argument("--rows", default="1,8,128")
    given = parser.parse_args()
    print("| block | rows | side | best ms | median ms | time / Whet, same level |")
    print("|---:|---:|---|---:|---:|---:|")
    for block in map(int, given.blocks.split(",")):
        runners = sides(given.size, block, given.threads)
        for rows in map(int, given.rows.split(",")):
            x = np.random.default_rng(0).standard_normal((rows, given.size), np.float32)
            samples = measure_interleaved(runners, [{"x": x}], PLAN)
            for runner in runners:
                times = summarise(samples.seconds[runner.name])
                same = f"Whet, level {runner.name[-1]}"
                ratio = 1 / compare(samples, runner.name, same).ratio
                print(f"| {block} | {rows} | {runner.name} | {times.best_ms:.2f} "
                      f"| {times.median_ms:.2f} | {ratio:.2f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
