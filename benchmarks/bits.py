"""MatMulNBits against ONNX Runtime, call by call in turn: ``python -m benchmarks.bits``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnxruntime as ort

import whet
from whet.tests.test_contrib_bits import weights

ROUNDS = {1: 200, 8: 40, 128: 8}
"""Calls of each side, by the number of rows."""


Run = Callable[[dict[str, Any]], Any]


def timed(sides: Mapping[str, Run], feeds: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Return the times of each side in milliseconds; they take turns."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for name, run in (pair for _ in range(rounds + 1) for pair in sides.items()):
        start = time.perf_counter()
        run(feeds)
        found[name].append(1e3 * (time.perf_counter() - start))
    return {name: times[1:] for name, times in found.items()}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    options = ort.SessionOptions()
    options.intra_op_num_threads = given.threads
    print("| block | rows | side | best ms | median ms | time / Whet, level 4 |")
    print("|---:|---:|---|---:|---:|---:|")
    for block in (32, 128):
        runs: dict[str, Run] = {}
        for level in (4, 0):
            model = weights(given.size, given.size, block=block, level=level).model
            session = ort.InferenceSession(model.SerializeToString(), options)
            runs[f"Whet, level {level}"] = whet.compile(
                model, options=whet.Options(threads=given.threads)
            )
            runs[f"ONNX Runtime, level {level}"] = lambda feeds, s=session: s.run(None, feeds)
        for rows, rounds in ROUNDS.items():
            feeds = {"x": np.random.default_rng(0).standard_normal((rows, given.size), np.float32)}
            times = timed(runs, feeds, rounds)
            base = np.array(times["Whet, level 4"])
            for name, found in times.items():
                ratio = np.median(np.array(found) / base)
                print(f"| {block} | {rows} | {name} | {min(found):.2f} | {np.median(found):.2f} "
                      f"| {ratio:.2f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
