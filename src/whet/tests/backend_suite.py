"""ONNX's own backend tests, compiled, run and classified in a process of their own.

``python -m whet.tests.backend_suite [--update] [--level N] [pattern...]`` prints what fails.
"""

from __future__ import annotations

import argparse
import os
import queue
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import whet
from whet.errors import CompileError, WhetError
from whet.tests.backend_cases import Case, as_array, load_case, names
from whet.tests.tolerance import tolerance

PASSES = Path(__file__).parent / "data" / "backend_passes.txt"
FAILURES = Path(__file__).parent / "data" / "backend_failures.txt"
PASSED, REFUSED = "passed", "refused"


# -- running one -----------------------------------------------------------------------------------


def run_case(name: str, cache: str, level: int = 3) -> tuple[str, str] | None:
    """Compile and run one test; returns what became of it and why, or ``None`` without one."""
    case = load_case(name)
    if case is None:
        return None
    options = whet.Options(threads=1, cache_dir=cache, opt_level=level)
    try:
        model = whet.compile(case.model, options=options)
        wanted = {spec.name for spec in model.inputs}
        found = model({n: v for n, v in case.inputs.items() if n in wanted})
    except CompileError as error:
        return "failed", str(error)
    except WhetError as error:
        return REFUSED, str(error)
    except Exception:  # noqa: BLE001 - that is what is looked for
        return "failed", traceback.format_exc()
    problems = [
        _difference(found[o.name], expected, case)
        for o, expected in zip(case.model.graph.output, case.outputs, strict=True)
    ]
    wrong = [p for p in problems if p]
    return ("wrong", "; ".join(wrong)) if wrong else (PASSED, "")


def _difference(found: Any, expected: Any, case: Case) -> str:
    if expected is None or found is None:
        return "" if found is expected else f"{found!r} is not {expected!r}"
    if isinstance(expected, list | tuple):
        if not isinstance(found, list) or len(found) != len(expected):
            return f"{type(found).__name__} is not a list of {len(expected)}"
        pairs = zip(found, expected, strict=True)
        return "; ".join(filter(None, (_difference(a, as_array(b), case) for a, b in pairs)))
    if not isinstance(expected, np.ndarray | np.generic):
        return f"expected {type(expected).__name__}"
    return _array_difference(found, np.asarray(expected), case)


def _array_difference(
    found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], case: Case
) -> str:
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return f"{found.dtype}{list(found.shape)} is not {expected.dtype}{list(expected.shape)}"
    if found.dtype.kind in "biuO":
        return "" if np.array_equal(found, expected) else _shown(found, expected)
    a, b = found.astype(np.float64), np.asarray(expected, np.float64)
    bound = tolerance("pointwise", found.dtype.name)  # halves: ONNX rounds every intermediate
    rtol, atol = max(case.rtol, bound.rtol), max(case.atol, bound.atol)
    same = np.allclose(a, b, rtol=rtol, atol=atol, equal_nan=True)
    return "" if same else _shown(a, b)


def _shown(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> str:
    places = np.flatnonzero(found.reshape(-1) != expected.reshape(-1))[:4]
    pairs = [f"{found.reshape(-1)[k]} is not {expected.reshape(-1)[k]}" for k in places]
    return f"{len(np.flatnonzero(found != expected))} of {found.size} differ: {', '.join(pairs)}"


# -- running many ----------------------------------------------------------------------------------


def serve(cache: str, level: int) -> None:
    """Run the tests named on standard input, one line each; answer with one line each."""
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        result = run_case(line.strip(), cache, level)
        status, why = result or ("none", "")
        sys.stdout.write(f"{status}\t{why.encode('unicode_escape').decode()}\n")
        sys.stdout.flush()


class Workers:
    """A process that runs tests, started again when a test ends it or takes too long."""

    def __init__(self, cache: str, level: int = 3, timeout_s: float = 600) -> None:
        self._command = [sys.executable, "-m", __name__ if __name__ != "__main__" else MODULE]
        self._command += ["--serve", cache, "--level", str(level)]
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[str] | None = None

    def run(self, name: str) -> tuple[str, str]:
        """Return what becomes of a test."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert self._process.stdin is not None
        self._process.stdin.write(name + "\n")
        self._process.stdin.flush()
        line = self._answer(self._process)
        if line:
            status, _, why = line.rstrip("\n").partition("\t")
            return status, why.encode().decode("unicode_escape")
        self.close()
        return "crashed", "the process ended, or the time was up"

    def _answer(self, process: subprocess.Popen[str]) -> str | None:
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        stream = process.stdout
        assert stream is not None
        reader = threading.Thread(target=lambda: lines.put(stream.readline()), daemon=True)
        reader.start()
        try:
            return lines.get(timeout=self._timeout_s)
        except queue.Empty:
            return None

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def read_passes() -> list[str]:
    """Return the checked-in names of tests that pass."""
    lines = PASSES.read_text().splitlines() if PASSES.exists() else []
    return [line for line in lines if line and not line.startswith("#")]


def read_failures() -> dict[str, str]:
    """Return what becomes of the other tests by name; the reason stands behind it in the file."""
    lines = FAILURES.read_text().splitlines() if FAILURES.exists() else []
    return {_named(line): line.partition(" ")[0] for line in lines}


def _run_all(chosen: list[str], level: int) -> Iterator[tuple[str, str, str]]:
    with tempfile.TemporaryDirectory() as cache:
        workers = Workers(os.environ.get("WHET_CACHE_DIR", cache), level)  # noqa: TID251
        for name in chosen:
            yield (name, *workers.run(name))
        workers.close()


def main() -> None:
    """Run tests, say what fails, and on request add what passes to the list."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve")
    parser.add_argument("--level", type=int, default=3)
    parser.add_argument("--update", action="store_true")
    parser.add_argument("patterns", nargs="*")
    args = parser.parse_args()
    if args.serve is not None:
        serve(args.serve, args.level)
        return
    chosen = [n for n in names() if not args.patterns or any(p in n for p in args.patterns)]
    counts: Counter[str] = Counter()
    passed = set(read_passes())
    failed: list[str] = []
    for name, status, why in _run_all(chosen, args.level):
        counts[status] += 1
        if status == PASSED:
            passed.add(name)
        elif status != "none":
            sys.stdout.write(f"{status} {name}: {why}\n")
            sys.stdout.flush()
            failed.append(f"{status} {name}: {why.splitlines()[0]}\n")
    sys.stdout.write(f"{dict(counts)}\n")
    if args.update:
        PASSES.write_text("".join(f"{n}\n" for n in sorted(passed)))
    if args.update:
        _write_failures(set(chosen), failed)


def _write_failures(chosen: set[str], failed: list[str]) -> None:
    """Replace the lines of the tests that were run."""
    lines = FAILURES.read_text().splitlines(keepends=True) if FAILURES.exists() else []
    kept = [line for line in lines if _named(line) not in chosen]
    FAILURES.write_text("".join(sorted([*kept, *failed], key=_named)))


def _named(line: str) -> str:
    return line.split(" ", 2)[1].removesuffix(":")


MODULE = "whet.tests.backend_suite"

if __name__ == "__main__":
    main()
