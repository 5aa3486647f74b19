"""Runs models in Whet and its peers, interleaved, and writes a table.

``python -m benchmarks.run --models resnet50,bert_base_128 --threads 1,2 --against ort,openvino``
writes ``benchmarks/results/<device>.json`` and ``<device>.md``. Every model runs in a process of
its own, so that a crash or left-over memory does not reach the next.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks.models.export import DEFAULT_CACHE, EXPORTERS, Exporter, ensure
from benchmarks.models.registry import MODELS
from benchmarks.records import OURS, ModelResult, Report, Request
from benchmarks.tables import markdown
from whet.errors import nearest
from whet.measure.interleave import Plan
from whet.measure.machine import Machine, describe_machine

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
TIME_LIMIT_S = 900
RUNTIMES = (OURS, "ort", "openvino", "torch", "torch.compile")


def device_slug(machine: Machine) -> str:
    """Return a file name for a machine, such as ``amd-epyc-znver5-2cpu``."""
    words = re.findall(r"[a-z0-9]+", f"{machine.cpu} {machine.llvm_cpu}".lower())
    return "-".join([*dict.fromkeys(words), f"{machine.cpus}cpu"])


def run_worker(request: Request) -> ModelResult:
    """Measure one model in a fresh process; a crash becomes the result's error."""
    command = [sys.executable, "-m", "benchmarks.worker"]
    error = ""
    try:
        done = subprocess.run(
            command,
            input=msgspec.json.encode(request),
            capture_output=True,
            check=False,
            cwd=ROOT,
            timeout=TIME_LIMIT_S,
        )
        if done.returncode == 0:
            return msgspec.json.decode(done.stdout.splitlines()[-1], type=ModelResult)
        words = done.stderr.decode(errors="replace").strip().splitlines() or [""]
        error = f"the process ended with status {done.returncode}: {words[-1][:200]}"
    except subprocess.TimeoutExpired:
        error = f"not done after {TIME_LIMIT_S} s"
    return ModelResult(
        model=request.model, exporter=request.exporter, threads=request.threads, error=error
    )


def requests_of(arguments: argparse.Namespace, plan: Plan) -> Iterator[Request]:
    """Yield what to measure, model by model."""
    exporters: tuple[Exporter, ...] = (
        EXPORTERS if arguments.exporter == "both" else (arguments.exporter,)
    )
    runtimes = tuple(name for name in arguments.against if name)
    for model in arguments.models:
        for exporter in exporters:
            for threads in arguments.threads:
                yield Request(
                    model=model,
                    exporter=exporter,
                    threads=threads,
                    runtimes=runtimes if arguments.peers_only else (OURS, *runtimes),
                    plan=plan,
                    cache=str(arguments.cache.resolve()),
                    memory=not arguments.no_memory,
                )


def measure(request: Request) -> ModelResult:
    """Export the model if the cache lacks it, and measure it."""
    exported = ensure(request.model, request.exporter, Path(request.cache))
    if exported.error:
        return ModelResult(
            model=request.model,
            exporter=request.exporter,
            threads=request.threads,
            error=f"export failed: {exported.error}",
        )
    return run_worker(request)


def one_line(result: ModelResult) -> str:
    """Return what the terminal shows of a result."""
    parts = [f"{result.model:20} {result.exporter:11} {result.threads}T"]
    for name, found in result.runtimes.items():
        if found.times is None:
            parts.append(f"{name} failed")
        else:
            wrong = "" if found.agreement is None or found.agreement.passed else " WRONG"
            parts.append(f"{name} {found.times.best_ms:.2f}/{found.times.median_ms:.2f}{wrong}")
    if closest := result.closest_peer():
        parts.append(f"ratio {closest.ratio:.2f} ({closest.peer}, {closest.verdict})")
    return "  ".join([*parts, result.error or result.noise or ""])


def merged(path: Path, report: Report) -> Report:
    """Return the report with the rows of an earlier one on the same machine that it lacks."""
    if not path.exists():
        return report
    earlier = msgspec.json.decode(path.read_bytes(), type=Report)
    rows = {result.key: result for result in (*earlier.results, *report.results)}
    order = list(MODELS)
    kept = sorted(rows.values(), key=lambda r: (r.threads, order.index(r.model), r.exporter))
    return msgspec.structs.replace(report, results=tuple(kept))


def write_report(folder: Path, report: Report, *, merge: bool) -> Path:
    """Write JSON and Markdown, each to a temporary name first, and return the table's path."""
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / device_slug(report.machine)
    if merge:
        report = merged(base.with_suffix(".json"), report)
    encoded = msgspec.json.format(msgspec.json.encode(report), indent=1)
    for suffix, content in ((".json", encoded), (".md", markdown(report).encode())):
        temporary = base.with_suffix(suffix + ".partial")
        temporary.write_bytes(content + b"\n")
        os.replace(temporary, base.with_suffix(suffix))
    return base.with_suffix(".md")


def _names(text: str, valid: tuple[str, ...]) -> list[str]:
    if text == "all":
        return list(valid)
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in valid:
            raise argparse.ArgumentTypeError(f"{name!r}: {nearest(name, valid)}")
    return names


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--models", type=lambda t: _names(t, tuple(MODELS)), default="all", help="names, or all"
    )
    parser.add_argument("--threads", type=lambda t: [int(n) for n in t.split(",")], default=[1, 2])
    parser.add_argument("--against", type=lambda t: _names(t, RUNTIMES[1:]), default="ort,openvino")
    parser.add_argument("--exporter", choices=[*EXPORTERS, "both"], default="torchscript")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--duration", type=float, help="seconds after which rounds stop")
    parser.add_argument(
        "--lead-in", type=float, default=0.04, help="seconds of untimed calls before a timed one"
    )
    parser.add_argument("--peers-only", action="store_true", help="leave Whet out")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument("--merge", action="store_true", help="keep rows that this run lacks")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> None:
    """Measure what the command line asks for."""
    arguments = parse_arguments()
    plan = Plan(rounds=arguments.rounds, duration_s=arguments.duration, lead_in_s=arguments.lead_in)
    results = []
    for request in requests_of(arguments, plan):
        results.append(measure(request))
        print(one_line(results[-1]), flush=True)
    report = Report(machine=describe_machine(), plan=plan, results=tuple(results))
    print(write_report(arguments.results, report, merge=arguments.merge))


if __name__ == "__main__":
    main()
