"""The Markdown table of a report."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from benchmarks.records import OURS, ModelResult, Report, RuntimeResult

MIB = 1024 * 1024


def markdown_row(cells: Iterable[str]) -> str:
    """Return one row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def markdown_head(titles: Sequence[str]) -> list[str]:
    """Return the head of a Markdown table; the first column is text, the rest are numbers."""
    return [markdown_row(titles), markdown_row(["---", *["---:"] * (len(titles) - 1)])]


def _times(result: RuntimeResult | None) -> str:
    if result is None:
        return ""
    if result.times is None:
        return "failed"
    wrong = "" if result.agreement is None or result.agreement.passed else " **wrong**"
    return f"{result.times.best_ms:.2f} / {result.times.median_ms:.2f}{wrong}"


def _rate(result: RuntimeResult | None) -> str:
    if result is None or result.gflops is None or result.peak_share is None:
        return ""
    return f"{result.gflops:.0f} ({100 * result.peak_share:.0f} %)"


def _memory(result: RuntimeResult | None) -> str:
    return (
        "–"
        if result is None or result.memory is None
        else (f"{result.memory.after_bytes / MIB:.0f}")
    )


def _ratio(result: ModelResult) -> str:
    closest = result.closest_peer()
    if closest is None:
        return ""
    low, high = closest.quartiles
    return f"{closest.ratio:.2f} [{low:.2f}–{high:.2f}] {closest.peer}"


def _model_row(result: ModelResult, runtimes: Sequence[str]) -> str:
    if result.error:
        return markdown_row([result.model, f"failed: {result.error}"])
    found = result.runtimes
    shown = OURS if OURS in runtimes else runtimes[0]
    memory = " / ".join(_memory(found.get(name)) for name in runtimes if "torch" not in name)
    return markdown_row(
        [
            result.model,
            *(_times(found.get(name)) for name in runtimes),
            _ratio(result),
            _rate(found.get(shown)),
            memory,
            result.exporter,
            result.noise or "",
        ]
    )


def geometric_mean(results: Iterable[ModelResult]) -> float | None:
    """Return the geometric mean of the ratios against each model's closest peer."""
    closest = [result.closest_peer() for result in results]
    ratios = [comparison.ratio for comparison in closest if comparison is not None]
    return statistics.geometric_mean(ratios) if ratios else None


def _thread_section(results: Sequence[ModelResult], threads: int) -> list[str]:
    names = {name for result in results for name in result.runtimes}
    runtimes = sorted(names, key=lambda name: (name != OURS, name))
    if not runtimes:
        return [f"## {threads} threads", "", *(f"- {r.model}: {r.error}" for r in results), ""]
    weighed = " / ".join(name for name in runtimes if "torch" not in name)
    shown = OURS if OURS in runtimes else runtimes[0]
    head = markdown_head(
        [
            "model",
            *(f"{name} best / median ms" for name in runtimes),
            "ratio [quartiles] closest peer",
            f"{shown} GFLOP/s (of peak)",
            f"resident MiB {weighed}",
            "exporter",
            "noise",
        ]
    )
    lines = [f"## {threads} thread{'s' if threads > 1 else ''}", "", *head]
    lines += [_model_row(result, runtimes) for result in results]
    if mean := geometric_mean(results):
        lines += ["", f"Geometric mean of the ratios: **{mean:.2f}**"]
    peaks = [result.limits.gflops for result in results if result.limits is not None]
    if peaks:
        lines += ["", f"Measured multiply-add peak: {max(peaks):.0f} GFLOP/s."]
    return [*lines, ""]


def _failures(results: Iterable[ModelResult]) -> list[str]:
    lines = [
        f"- {result.model} ({result.exporter}, {result.threads} threads), {name}: {found.error}"
        for result in results
        for name, found in result.runtimes.items()
        if found.error
    ]
    return ["## What failed", "", *lines, ""] if lines else []


def markdown(report: Report) -> str:
    """Return the whole report as Markdown."""
    machine, plan = report.machine, report.plan
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    lines = [
        f"# Benchmarks on {machine.cpu} ({machine.llvm_cpu}, {machine.cpus} CPUs)",
        "",
        f"{machine.system}, Python {machine.python}, {versions}.",
        "",
        f"f32, batch 1. {plan.rounds} rounds; in each, every runtime makes one timed call, in "
        "random order, on the same input. Ratio: closest peer's time over Whet's, median of the "
        "rounds' ratios, with quartiles; above 1, Whet is faster. Resident memory: a fresh "
        "process that loads the model and runs it once.",
        "",
    ]
    for threads in sorted({result.threads for result in report.results}):
        rows = [result for result in report.results if result.threads == threads]
        lines += _thread_section(rows, threads)
    return "\n".join([*lines, *_failures(report.results)])
