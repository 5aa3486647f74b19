"""``python -m whet.tests.fuzz models|onnx|whet --count N --seed S``: trials, and what they find."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from whet.tests.fuzz.children import BAD, Outcome, Trial, run_trials, serve

_MEMORY_BYTES = 12 << 30
_TIMEOUT_S = 60.0
_TOLD_EACH = 1000


def trial_of(kind: str, cache: str) -> Trial:
    """Return the trial of a kind; modules are imported where they are needed."""
    if kind == "onnx":
        from whet.tests.fuzz import onnx_files

        return lambda seed: onnx_files.compile_and_run(onnx_files.damaged(seed), cache)
    from whet.tests.fuzz import whet_files

    def whet_trial(seed: int) -> tuple[str, str]:
        data, signed = whet_files.damaged(seed)
        return whet_files.load_and_run(data, signed=signed)

    return whet_trial


def fuzz(kind: str, seeds: range, *, jobs: int, cache: str) -> tuple[Counter[str], list[Outcome]]:
    """Run trials and return how many ended how, and those that must not."""
    counts: Counter[str] = Counter()
    bad: list[Outcome] = []
    start = time.monotonic()
    for outcome in run_trials([kind, "--cache", cache], seeds, jobs=jobs, timeout_s=_TIMEOUT_S):
        counts[outcome.status] += 1
        if outcome.status in BAD:
            bad.append(outcome)
            sys.stdout.write(f"{outcome.status} {kind} seed {outcome.seed}: {outcome.detail}\n")
        if counts.total() % _TOLD_EACH == 0:
            sys.stdout.write(f"{dict(counts)} after {time.monotonic() - start:.0f} s\n")
        sys.stdout.flush()
    return counts, bad


def main() -> int:
    """Run trials as the command line says; exit with 1 if any found something."""
    parser = argparse.ArgumentParser(prog="python -m whet.tests.fuzz")
    parser.add_argument("kind", choices=("models", "onnx", "whet"))
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--cache", default="")
    parser.add_argument("--serve", action="store_true")
    args = parser.parse_args()
    if args.serve:
        serve(trial_of(args.kind, args.cache), _MEMORY_BYTES)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        cache = args.cache or str(Path(folder) / "cache")
        os.makedirs(cache, exist_ok=True)
        seeds = range(args.seed, args.seed + args.count)
        counts, bad = fuzz(args.kind, seeds, jobs=args.jobs, cache=cache)
    sys.stdout.write(f"{args.kind}: {dict(counts)}\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
