"""What is left of a language model's speed while another process takes one of its CPUs.

    python -m benchmarks.llm.shared_core model.gguf

A process that never waits is pinned to one CPU; steps with it and without it take turns. With two
threads on two CPUs half of the speed is what there is to have.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np

import whet
from whet.kernel.paged import PAGE
from whet.llm import LLM
from whet.llm.engine.program import Span

BUSY = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
SETTLE = 0.2


def seconds(step: Callable[[], object], trials: int) -> float:
    """Return the median time of a step after one to warm up."""
    times = []
    for _ in range(trials + 1):
        before = time.perf_counter()
        step()
        times.append(time.perf_counter() - before)
    return median(times[1:])


def main() -> None:
    """Measure and print both speeds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0))
    context = given.prompt_tokens + PAGE
    llm = LLM(given.model, context=context, options=whet.Options(threads=len(cpus)))
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, llm.architecture.vocabulary, given.prompt_tokens).tolist()
    pages = list(range(-(-context // PAGE)))
    steps = {
        "decode": ([Span(prompt[:1], given.prompt_tokens, pages, 1)], 6),
        "prefill": ([Span(prompt, 0, pages, 1)], 2),
    }
    for name, (spans, trials) in steps.items():
        shares = []
        for _ in range(given.rounds):
            alone = seconds(lambda spans=spans: llm.program.run(spans), trials)  # type: ignore[misc]
            busy = subprocess.Popen([sys.executable, "-c", BUSY, str(cpus[-1])])
            try:
                time.sleep(SETTLE)
                beside = seconds(lambda spans=spans: llm.program.run(spans), trials)  # type: ignore[misc]
            finally:
                busy.kill()
                busy.wait()
            shares.append((alone / beside, alone, beside))
        share, alone, beside = sorted(shares)[len(shares) // 2]
        print(f"{name:8} alone {alone * 1e3:8.1f} ms, beside {beside * 1e3:8.1f} ms: {share:.0%}")


if __name__ == "__main__":
    main()
