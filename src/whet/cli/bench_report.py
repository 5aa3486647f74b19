"""What ``whet bench`` found out, for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from whet.cli import output
from whet.report.words import NOISY
from whet.words import counted

OURS = "whet"
SCHEMA = "whet.bench.1"
_COLUMNS = ("best_ms", "mean_ms", "median_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms")


def print_findings(console: Console, found: dict[str, Any]) -> None:
    """Print times, comparisons, and what else was measured."""
    block = next(iter(found["times"].values()))["block"]
    columns = ("block_ms", *_COLUMNS) if block > 1 else _COLUMNS
    heads = [f"of {block}"] if block > 1 else []
    headers = ["runtime", *heads, "min", "mean", "median", "p90", "p95", "p99", "max", "runs/s"]
    by_peer = {c["peer"]: c for c in found["comparisons"]}
    if by_peer:
        headers += ["time ÷ ours", "difference"]
    rows = []
    for name, times in found["times"].items():
        cells = [output.format_ms(times[key] / 1e3) for key in columns]
        row = [name, *cells, f"{1e3 / times['median_ms']:.1f}"]
        if name in by_peer:
            row += [_ratio(by_peer[name]), f"{found['largest_difference'][name]:.1e}"]
        rows.append(row)
    cpu, threads = found["machine"]["cpu"], counted(found["threads"], "thread")
    calls = next(iter(found["times"].values()))["calls"]
    title = (
        f"{found['model']}: {threads}, {counted(calls, 'round')}, {cpu}, machine {found['noise']}"
    )
    console.print(output.table(headers, rows, title=title))
    if block > 1:
        console.print(
            f"of {block}: the shortest of {block} calls in a row, median; other programs on the "
            "machine lengthen it least, and the ratio is made of it",
            soft_wrap=True,
        )
    for line in (*_goal(found), *_costs(found), *_streams(found), *_memory(found)):
        console.print(line, markup=False, soft_wrap=True)
    for finding in found["advice"] or ():
        console.print(
            f"[{finding['severity']}] {finding['message']}; up to {finding['saves_us']:.0f} us a "
            f"run. {finding['remedy']}.",
            markup=False,
            soft_wrap=True,
        )
    if found["noise"] == "noisy":
        console.print(NOISY)


def _ratio(comparison: dict[str, Any]) -> str:
    """Return the ratio of the blocks, its confidence interval and what that allows to say."""
    low, high = comparison["block_interval"]
    verdict = {"faster": "we are faster", "slower": "we are slower"}
    words = verdict.get(comparison["verdict"], comparison["verdict"])
    return f"{comparison['block_ratio']:.2f} ({low:.2f}–{high:.2f}, {words})"


def _goal(found: dict[str, Any]) -> list[str]:
    goal = found["goal"]
    if goal is None:
        return []
    return [
        f"best {goal['goal']}: {counted(goal['threads'], 'thread')} a request, "
        f"{goal['streams']} at once, {goal['median_ms']:.2f} ms, "
        f"{goal['per_second']:.1f} /s (of {len(goal['tried'])} tried)"
    ]


def _costs(found: dict[str, Any]) -> list[str]:
    costs, warm = found["costs"], found["warm_up"]
    compiled = f"compiled in {costs['compile_s']:.2f} s, " if costs["compile_s"] else ""
    steady = "stable" if warm["stable"] else "still not stable"
    return [
        f"{compiled}first call {warm['first_s'] * 1e3:.2f} ms, {steady} after "
        f"{counted(warm['calls'], 'call')}; weights {output.format_bytes(costs['weight_bytes'])}, "
        f"intermediate results {output.format_bytes(costs['arena_bytes'])}"
    ]


def _streams(found: dict[str, Any]) -> list[str]:
    streams = found["streams"]
    if streams is None:
        return []
    times = streams["times"]
    return [
        f"{counted(streams['streams'], 'request')} at once: {streams['per_second']:.1f} /s, median "
        f"{times['median_ms']:.2f} ms, p99 {times['p99_ms']:.2f} ms"
    ]


def _memory(found: dict[str, Any]) -> list[str]:
    return [
        f"{name}: resident {output.format_bytes(use['after_bytes'])}, "
        f"{output.format_bytes(use['after_bytes'] - use['before_bytes'])} of it for the model, "
        f"peak {output.format_bytes(use['peak_bytes'])}, ready in {use['prepare_s']:.2f} s"
        for name, use in (found["memory"] or {}).items()
    ]
