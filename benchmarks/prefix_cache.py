"""Time to the first token of prompts that share 1,000 tokens with one before, and of others.

python -m benchmarks.prefix_cache --hidden 768 --layers 12
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.random_llm import Sizes, write_llama
from whet.llm import LLM, SamplingParams

SHARED, OWN, ROUNDS = 1000, 16, 5


def first_token(llm: LLM, prompt: list[int]) -> tuple[float, int]:
    """Return seconds until a prompt's first token, and tokens that the cache held."""
    start = time.perf_counter()
    (found,) = llm.generate(prompt, SamplingParams(max_tokens=1, ignore_eos=True))
    return time.perf_counter() - start, found.cached_tokens


def main() -> None:
    """Measure, taking turns, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    given = parser.parse_args()
    sizes = Sizes(given.hidden, given.hidden * 8 // 3, given.layers, 12, 4, 8192, 2048)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        llm = LLM(write_llama(Path(folder), sizes))
        shared = rng.integers(0, 8192, SHARED).tolist()
        first_token(llm, shared)
        fresh, cached, ratios, held = [], [], [], 0
        for _ in range(ROUNDS):
            other = rng.integers(0, 8192, SHARED + OWN).tolist()
            fresh.append(first_token(llm, other)[0])
            seconds, held = first_token(llm, [*shared, *rng.integers(0, 8192, OWN).tolist()])
            cached.append(seconds)
            ratios.append(cached[-1] / fresh[-1])
    print(f"without {median(fresh) * 1e3:.1f} ms (best {min(fresh) * 1e3:.1f})")
    print(f"with {held} tokens cached {median(cached) * 1e3:.1f} ms (best {min(cached) * 1e3:.1f})")
    print(f"ratio {median(ratios):.3f}")


if __name__ == "__main__":
    main()
