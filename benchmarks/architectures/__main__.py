"""``python -m benchmarks.architectures --exporters both --only bert,gpt2``.

Every export and every check runs in a process of its own; exports are kept in a folder and made
again only when it is emptied. The table goes to ``results/architectures.md``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import msgspec

from benchmarks.architectures.check import Check
from benchmarks.architectures.files import Failure, model_path, read_failure
from benchmarks.architectures.registry import ARCHITECTURES
from benchmarks.architectures.table import read_results, write_results
from benchmarks.models.export import DEFAULT_CACHE, EXPORTERS, Exporter
from whet.errors import nearest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
TIMEOUT_S = 900


def run_one(name: str, exporter: Exporter, cache: Path, *, check: bool) -> Check:
    """Export an architecture unless that was done before, and compare it with PyTorch."""
    model = model_path(cache, name, exporter)
    cache.mkdir(parents=True, exist_ok=True)
    log = cache / f"{name}.{exporter}"
    if not model.exists() and read_failure(model) is None:
        _python("export", [name, exporter, str(cache)], log.with_suffix(f".{exporter}.export.log"))
    failure = read_failure(model)
    if failure is not None or not model.exists():
        died = Failure(stage="export", reason="the process died or ran out of time")
        return Check(failure=failure or died)
    if not check:
        return Check()
    text = _python("check", [str(model), name], log.with_suffix(f".{exporter}.check.log"))
    lines = [line for line in text.splitlines() if line.startswith("{")]
    if not lines:
        return Check(failure=Failure(stage="run", reason="the process died or ran out of time"))
    return msgspec.json.decode(lines[-1], type=Check)


def _python(module: str, arguments: list[str], log: Path) -> str:
    command = [sys.executable, "-m", f"benchmarks.architectures.{module}", *arguments]
    with log.open("wb") as errors:
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=errors, check=False, cwd=ROOT,
                timeout=TIMEOUT_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return ""
    return done.stdout.decode(errors="replace")


def main() -> None:
    """Check the architectures named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="comma-separated names; all by default")
    parser.add_argument("--exporters", default="both", choices=("both", *EXPORTERS))
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE / "architectures")
    parser.add_argument("--no-check", action="store_true", help="export only")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else list(ARCHITECTURES)
    for name in names:
        if name not in ARCHITECTURES:
            parser.error(f"no architecture {name!r}; {nearest(name, ARCHITECTURES)}")
    exporters = EXPORTERS if arguments.exporters == "both" else (arguments.exporters,)
    results = read_results(RESULTS)
    for name in names:
        for exporter in exporters:
            outcome = run_one(name, exporter, arguments.cache, check=not arguments.no_check)
            failure = outcome.failure
            text = f"{failure.stage}: {failure.reason}" if failure else f"ok {outcome.worst:.0e}"
            print(f"{name:22} {exporter:12} {text}", flush=True)
            if not arguments.no_check:
                results[f"{name}.{exporter}"] = outcome
                write_results(RESULTS, results)


if __name__ == "__main__":
    main()
