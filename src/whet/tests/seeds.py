"""Seeds of random tests: the same in every run, unless the environment says otherwise."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator

SEEDS = "20260"


def seeds_of_models(count: int, *, of: int = 0) -> Iterator[int]:
    """Yield seeds, the first of ``of``; the last one is in the report of a test that fails.

    They are the same in every run, so that a change is judged by what it does; the environment
    variable ``WHET_SEED`` chooses others, and ``make fuzz`` new ones each time.
    """
    chosen = os.environ.get("WHET_SEED", SEEDS)  # noqa: TID251 - for tests alone
    drawn = of or count
    source = random.Random(f"{chosen} {drawn}")
    for seed in source.sample(range(1_000_000), drawn)[:count]:
        sys.stdout.write(f"seed {seed}\n")
        yield seed
